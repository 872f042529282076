"""An API server without anything else: ready in about two seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lab.kubernetes import builder, recipes, versions
from lab.kubernetes.api_server import ApiServer, Endpoint
from lab.kubernetes.cache import Say
from lab.kubernetes.machines import Machines, reap


def quiet(_line: str) -> None:
    """Say nothing."""


@contextmanager
def api_server(
    version: str = versions.KUBERNETES,
    *,
    network: str | None = None,
    address: str | None = None,
    users: Sequence[str] = (),
    flags: Sequence[str] = (),
    say: Say = quiet,
) -> Iterator[ApiServer]:
    """Run an API server until the end of the block, or of this process.

    It listens on 127.0.0.1 of this machine, at a free port, so that tests speak to it directly. With ``network`` (the
    path of a network namespace, such as a lab's host) it is there, at ``address``, which must exist, and port 6443.
    ``users`` get tokens of their own (``server.credentials.tokens``) and no rights; ``flags`` go to the server.

    Nothing but the server runs: no controller makes service accounts or removes what is orphaned, no namespace ends,
    and the aggregated roles (view, edit, admin) are empty. Without ``users`` the other roles of every cluster come a
    second after it is ready.
    """
    programs = builder.ensure([recipes.api_server(version)], say)
    reap()
    machines = Machines.create()
    try:
        own = ("/proc/self/ns/net", Endpoint.on_loopback()) if network is None else (network, Endpoint(address or ""))
        [machine] = machines.start(["apiserver"], network=own[0], loopback=False)
        flags = ["--disable-admission-plugins=ServiceAccount", *flags]
        folder = machines.files / "apiserver"
        server = ApiServer(machine, programs["kube"], folder, own[1], users, flags, roles=bool(users))
        server.start()
        yield server
    finally:
        machines.remove()
