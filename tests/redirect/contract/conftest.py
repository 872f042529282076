"""A namespace for each test, and both backends in it."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from egress_router.errors import EgressRouterError
from egress_router.net.iptables.fake import FakeIptables
from egress_router.net.nft.fake import FakeNft
from egress_router.redirect.iptables_backend import IptablesBackend
from egress_router.redirect.nat import NatBackend
from egress_router.redirect.nft_backend import Nftables
from egress_router.redirect.values import Translation
from lab import Host, Lab


class Backend:
    """A NAT backend at work in the namespace of ``host``."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host

    def call(self, method: str, *arguments: object) -> Any:
        """Call a method of the backend; what it raises is raised here."""
        return self.calls((method, *arguments))[0]

    def calls(self, *calls: tuple[object, ...]) -> list[Any]:
        """Make several calls, each a method and its arguments, in one process."""
        results: list[Any] = self._drive("driver", (self.name, calls))
        for result in results:
            if isinstance(result, EgressRouterError):
                raise result
        return results

    def stay(self, translation: Translation, commands: Sequence[str]) -> list[tuple[list[str], list[str], list[str]]]:
        """Have the backend of a process that stays mend what ``commands`` do; see staying_driver."""
        found: list[tuple[list[str], list[str], list[str]]] = self._drive(
            "staying_driver", (self.name, translation, tuple(commands))
        )
        return found

    def _drive(self, driver: str, what: object) -> Any:
        command = ["ip", "netns", "exec", self.host.netns, sys.executable, "-m", f"tests.redirect.contract.{driver}"]
        done = subprocess.run(command, input=pickle.dumps(what), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return pickle.loads(done.stdout)  # noqa: S301 - our own child

    def rules(self) -> str:
        """Everything that netfilter holds in the namespace, without counters and time stamps."""
        commands = (["nft", "-s", "list", "ruleset"], ["iptables-legacy-save"], ["ip6tables-legacy-save"])
        text = "\n".join(self.host.run(command).stdout for command in commands)
        kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        return re.sub(r"\[\d+:\d+\]", "", kept)


@pytest.fixture
def host() -> Iterator[Host]:
    """A namespace with an interface ``eth0``."""
    with Lab(nodes=1) as lab:
        yield lab.pod("pod", node=0)


class FakeBackend(Backend):
    """A NAT backend over a fake of the kernel: the same code, without root or namespaces."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nft, self._iptables = FakeNft(), FakeIptables()

    def calls(self, *calls: tuple[object, ...]) -> list[Any]:
        """Make the calls here, each on a backend of its own."""
        return [getattr(self._fresh(), str(method))(*arguments) for method, *arguments in calls]

    def _fresh(self) -> NatBackend:
        return Nftables(self._nft) if self.name == "nftables" else IptablesBackend(self._iptables)


@pytest.fixture(params=["iptables", "nftables", "iptables fake", "nftables fake"])
def any_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, on the kernel and on the fake of it."""
    name, _, fake = str(request.param).partition(" ")
    return FakeBackend(name) if fake else Backend(name, request.getfixturevalue("host"))


@pytest.fixture(params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest, host: Host) -> Backend:
    """Each backend."""
    return Backend(str(request.param), host)
