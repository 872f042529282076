"""Where the API server is: of a pod, of a kubeconfig, and what is wrong with one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from egress_router.errors import ConfigurationError
from egress_router.kubernetes.configuration import from_kubeconfig, in_cluster, load_configuration, proxy_for

SERVER = "https://192.0.2.10:6443"


def written(path: Path, **changes: dict[str, Any]) -> Path:
    cluster = {"server": SERVER, "certificate-authority": "ca.crt", **changes.get("cluster", {})}
    user = {"token": "secret", **changes.get("user", {})}
    value = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        **changes.get("top", {}),
    }
    path.write_text(json.dumps(value))
    return path


def test_a_kubeconfig(tmp_path: Path) -> None:
    found = from_kubeconfig(written(tmp_path / "config"), {})
    assert (found.server, found.token, found.namespace, found.verify) == (SERVER, "secret", "ns", True)
    assert found.ca_file == tmp_path / "ca.crt", "relative to the file, as kubectl has it"


def test_data_in_a_kubeconfig(tmp_path: Path) -> None:
    pem = base64.b64encode(b"PEM\n").decode()
    path = written(
        tmp_path / "config",
        cluster={"certificate-authority-data": pem, "proxy-url": "http://192.0.2.1:3128", "tls-server-name": "api"},
        user={"client-certificate-data": pem, "client-key-data": pem, "tokenFile": "/token"},
    )
    found = from_kubeconfig(path, {})
    assert (found.ca_data, found.client_pem) == ("PEM\n", "PEM\nPEM\n")
    assert (found.proxy, found.server_name, found.token_file) == ("http://192.0.2.1:3128", "api", Path("/token"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top": {"current-context": "gone"}}, '"gone" is not in contexts'),
        ({"top": {"users": []}}, '"u" is not in users'),
        ({"top": {"clusters": "none"}}, '"c" is not in clusters'),
        ({"cluster": {"server": "192.0.2.10"}}, "is not the URL of a server (such as https://"),
        ({"user": {"exec": {"command": "aws"}}}, "cannot be used to authenticate (a token, a tokenFile or a client"),
        ({"cluster": {"certificate-authority-data": "%%%"}}, "that is not base64 of a PEM file"),
    ],
)
def test_what_is_wrong_with_a_kubeconfig(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = written(tmp_path / "config", **changes)
    with pytest.raises(ConfigurationError) as raised:
        from_kubeconfig(path, {})
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["[", "\x00", "just text", "- a list"])
def test_no_kubeconfig_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        from_kubeconfig(path, {})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        from_kubeconfig(tmp_path / "missing", {})


def test_a_pod(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "6443"}
    with pytest.raises(ConfigurationError, match="automountServiceAccountToken"):
        in_cluster(environ, tmp_path)
    for name, text in (("token", "t"), ("ca.crt", "c"), ("namespace", "egress-router\n")):
        (tmp_path / name).write_text(text)
    found = load_configuration({**environ, "HTTPS_PROXY": "http://192.0.2.1:3128"}, folder=tmp_path)
    assert (found.server, found.namespace) == ("https://[2001:db8::1]:6443", "egress-router")
    assert (found.token_file, found.ca_file) == (tmp_path / "token", tmp_path / "ca.crt")
    assert found.proxy == "", "none inside the cluster"
    assert (
        load_configuration(environ, server="https://192.0.2.9:6443", folder=tmp_path).server == "https://192.0.2.9:6443"
    )
    with pytest.raises(ConfigurationError, match="--api-server"):
        load_configuration(environ, server="192.0.2.9", folder=tmp_path)
    path = written(tmp_path / "config")
    assert load_configuration(environ, path).server == SERVER, "what is named goes first"
    assert load_configuration({"KUBECONFIG": f"{path}:/other"}).server == SERVER
    assert load_configuration({"HOME": str(tmp_path / "none"), "KUBECONFIG": str(path)}).server == SERVER


@pytest.mark.parametrize(
    ("server", "no_proxy", "used"),
    [
        ("https://api.example.org", "", True),
        ("https://api.example.org", "example.org", False),
        ("https://api.example.org", ".example.org, other", False),
        ("https://api.badexample.org", "example.org", True),
        ("https://192.0.2.10:6443", "192.0.2.10", False),
        ("https://api.example.org", "*", False),
        ("https://127.0.0.1:6443", "", False),
    ],
)
def test_proxies(server: str, no_proxy: str, used: bool) -> None:
    proxy = "http://192.0.2.1:3128"
    assert proxy_for(server, {"HTTPS_PROXY": proxy, "NO_PROXY": no_proxy}) == (proxy if used else "")
