"""Where the API server is and how to authenticate: a pod's service account, or a kubeconfig file."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from egress_router.config.inputs import read_file_variable
from egress_router.config.kubernetes_yaml import YamlError, parse_documents
from egress_router.errors import ConfigurationError, Problem

#: Where the kubelet mounts a pod's token, CA and namespace.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ApiConfiguration:
    """How to reach an API server. Files are read again when they change; ``ca_data``, ``token`` and ``client_pem`` are
    what a kubeconfig holds itself. ``proxy`` is the URL of an HTTP proxy (CONNECT), empty for none.
    """

    server: str
    ca_file: Path | None = None
    ca_data: str = ""
    verify: bool = True
    server_name: str = ""
    token_file: Path | None = None
    token: str = ""
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None
    client_pem: str = ""
    proxy: str = ""
    namespace: str = "default"


def load_configuration(
    environ: Mapping[str, str], kubeconfig: Path | None = None, server: str = "", folder: Path = SERVICE_ACCOUNT
) -> ApiConfiguration:
    """Return the configuration: of the kubeconfig that is named, else of the pod, else of KUBECONFIG or ~/.kube/config.

    ``server`` replaces the URL, for machines on which the Service address does not work (yet). Raises
    ConfigurationError, which says what is missing.
    """
    if kubeconfig is None and environ.get("KUBERNETES_SERVICE_HOST"):
        found = in_cluster(environ, folder)
    else:
        listed = environ.get("KUBECONFIG", "").split(os.pathsep)[0]
        path = kubeconfig or Path(listed or Path(environ.get("HOME", "/root")) / ".kube" / "config")
        found = from_kubeconfig(path, environ)
    if not server:
        return found
    return replace(found, server=_checked_url("--api-server", server))


def in_cluster(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> ApiConfiguration:
    """Return the configuration of a pod with a service account. No proxy is used inside the cluster."""
    host = environ["KUBERNETES_SERVICE_HOST"]
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    for name in ("token", "ca.crt"):
        if not (folder / name).is_file():
            raise ConfigurationError(
                [Problem(str(folder / name), None, "", "is missing", "a pod with automountServiceAccountToken: true")]
            )
    try:
        namespace = (folder / "namespace").read_text().strip()
    except OSError:
        namespace = "default"
    host = f"[{host}]" if ":" in host else host
    return ApiConfiguration(
        f"https://{host}:{port}", ca_file=folder / "ca.crt", token_file=folder / "token", namespace=namespace
    )


def from_kubeconfig(path: Path, environ: Mapping[str, str]) -> ApiConfiguration:
    """Return what the current context of a kubeconfig file says. Raises ConfigurationError with all its problems."""
    try:
        loaded = read_file_variable(str(path), str(path))
        if isinstance(loaded, Problem):
            raise ConfigurationError([replace(loaded, text="", expected="a kubeconfig file")])
        found_documents = parse_documents(loaded.text)
    except YamlError as error:
        # What stands on the line may be a password.
        raise ConfigurationError([Problem(str(path), error.line, "", "is not YAML", "a kubeconfig file")]) from error
    reader = _Kubeconfig(path, found_documents[0].value if found_documents else None)
    found = reader.configuration(environ)
    if reader.problems or found is None:
        raise ConfigurationError(reader.problems)
    return found


class _Kubeconfig:
    """Reads one file. Relative paths in it start in its own folder, as kubectl has it."""

    def __init__(self, path: Path, parsed: object) -> None:
        self._path = path
        self._raw: Mapping[str, Any] = parsed if isinstance(parsed, Mapping) else {}
        self.problems: list[Problem] = []

    def _wrong(self, text: str, message: str, expected: str) -> None:
        self.problems.append(Problem(str(self._path), None, text, message, expected))

    def _named(self, plural: str, singular: str, name: object) -> Mapping[str, Any]:
        entries = self._raw.get(plural)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, Mapping) and entry.get("name") == name:
                inner = entry.get(singular)
                return inner if isinstance(inner, Mapping) else {}
        self._wrong(str(name or ""), f"is not in {plural}", f"an entry of {plural} with this name")
        return {}

    def _file(self, mapping: Mapping[str, Any], field: str) -> Path | None:
        text = mapping.get(field)
        return self._path.parent / str(text) if text else None

    def _data(self, mapping: Mapping[str, Any], field: str) -> str:
        text = mapping.get(field)
        if not text:
            return ""
        try:
            return base64.b64decode(str(text), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            self._wrong("", f"has a {field} that is not base64 of a PEM file", "as kubectl writes it")
            return ""

    def configuration(self, environ: Mapping[str, str]) -> ApiConfiguration | None:
        """Return the configuration, None (or with notes in ``problems``) when it cannot be used."""
        context = self._named("contexts", "context", self._raw.get("current-context"))
        if self.problems:
            return None
        cluster = self._named("clusters", "cluster", context.get("cluster"))
        user = self._named("users", "user", context.get("user"))
        for field in ("exec", "auth-provider", "username"):
            if user.get(field):
                self._wrong(field, "cannot be used to authenticate", "a token, a tokenFile or a client certificate")
        server = str(cluster.get("server") or "")
        if not server.startswith(("https://", "http://")):
            self._wrong(server, "is not the URL of a server", "such as https://192.0.2.10:6443")
            return None
        client_pem = self._data(user, "client-certificate-data") + self._data(user, "client-key-data")
        return ApiConfiguration(
            server,
            ca_file=self._file(cluster, "certificate-authority"),
            ca_data=self._data(cluster, "certificate-authority-data"),
            verify=cluster.get("insecure-skip-tls-verify") is not True,
            server_name=str(cluster.get("tls-server-name") or ""),
            token_file=self._file(user, "tokenFile"),
            token=str(user.get("token") or ""),
            client_certificate_file=self._file(user, "client-certificate"),
            client_key_file=self._file(user, "client-key"),
            client_pem=client_pem,
            proxy=str(cluster.get("proxy-url") or proxy_for(server, environ)),
            namespace=str(context.get("namespace") or "default"),
        )


def proxy_for(server: str, environ: Mapping[str, str]) -> str:
    """Return the proxy that HTTPS_PROXY and NO_PROXY tell for this server, empty for none.

    NO_PROXY holds host names, which count for their subdomains too, addresses, and ``*``.
    """
    proxy = environ.get("HTTPS_PROXY") or environ.get("https_proxy") or ""
    host = (urlsplit(server).hostname or "").lower()
    if host in ("localhost", "127.0.0.1", "::1"):
        return ""
    for word in (environ.get("NO_PROXY") or environ.get("no_proxy") or "").lower().split(","):
        name = word.strip().lstrip(".")
        if name and (name == "*" or host == name or host.endswith("." + name)):
            return ""
    return proxy


def _checked_url(where: str, server: str) -> str:
    parts = urlsplit(server)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ConfigurationError(
            [Problem(where, None, server, "is not the URL of a server", "such as https://192.0.2.10:6443")]
        )
    return server
