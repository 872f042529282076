"""Who may speak to an API server: its certificate authority, tokens and kubeconfig files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import process

ADMIN = "admin"
CONTROLLER_MANAGER = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
PROXY = "system:kube-proxy"


_OPENSSL = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {subject}
"""


def node_user(name: str) -> str:
    """Return the user that a kubelet is: the Node authorizer knows it by its name and group."""
    return f"system:node:{name}"


def groups(user: str) -> tuple[str, ...]:
    """Return the groups of a user."""
    if user == ADMIN:
        return ("system:masters",)
    return ("system:nodes",) if user.startswith("system:node:") else ()


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files in ``folder``, and a token for each user."""

    folder: Path
    tokens: dict[str, str]

    @property
    def ca(self) -> Path:
        """The certificate authority that signed the API server's certificate."""
        return self.folder / "ca.crt"

    def kubeconfig(self, server: str, user: str = ADMIN) -> Path:
        """Write a kubeconfig for a user and return its path."""
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(kubeconfig(server, self.ca, self.tokens[user]))
        path.chmod(0o600)
        return path


def kubeconfig(server: str, ca: Path, token: str) -> str:
    """Return the text of a kubeconfig (JSON is YAML)."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": str(ca)}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
            "current-context": "lab",
        },
        indent=1,
    )


def make(folder: Path, users: Iterable[str], addresses: Sequence[str]) -> Credentials:
    """Make a CA, a server certificate for the ``addresses``, a key for service accounts and the users' tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    subject = ",".join([*names, "DNS:localhost", *(f"IP:{address}" for address in addresses)])
    (folder / "openssl.cnf").write_text(_OPENSSL.format(subject=subject))
    # No RSA: making such a key takes a busy machine seconds.
    curve = ("-pkeyopt", "ec_paramgen_curve:P-256")
    for name, signed in (("ca", ()), ("server", ("-CA", "ca.crt", "-CAkey", "ca.key"))):
        _openssl(
            folder, "req", "-x509", "-newkey", "ec", *curve, "-nodes", "-config", "openssl.cnf", "-extensions", name,
            *signed, "-subj", f"/CN=lab-{name}", "-days", "30", "-keyout", f"{name}.key", "-out", f"{name}.crt",
        )  # fmt: skip
    _openssl(folder, "genpkey", "-algorithm", "EC", *curve, "-out", "accounts.key")
    _openssl(folder, "pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    made = Credentials(folder, {user: secrets.token_hex(16) for user in users})
    lines = [
        ",".join([token, user, user, *(['"' + ",".join(groups(user)) + '"'] if groups(user) else [])])
        for user, token in made.tokens.items()
    ]
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
    return made


def _openssl(folder: Path, *arguments: str) -> None:
    process.run(["openssl", *arguments], cwd=folder)
