"""Real Squid with the compiled policy decides as the reference does, and the log names the line: thousands of requests
through one process.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import SquidPlace, render_squid
from egress_router.http_proxy.squid.files import check
from egress_router.http_proxy.squid.log_line import CLOSED, RawLine, RuleAttributor
from egress_router.http_proxy.squid.log_line import parse as parse_raw
from egress_router.policy import codes as http_codes
from egress_router.policy.clients import for_client
from egress_router.policy.codes import MIXED
from egress_router.policy.compile import compile_policy
from egress_router.policy.evaluate import evaluate, literal_address
from egress_router.policy.values import Address, Policy
from lab import Lab
from lab.host import Host
from tests.http_proxy.unit.requests import (
    Proportions,
    deciding,
    denying,
    many_addresses,
    many_lines,
    policies,
    resolutions,
    world,
)
from tests.http_proxy.unit.strategies import CLIENTS, NAMES, Request, parse, section_texts

pytestmark = pytest.mark.root

#: Other ways to write what a policy is about; Squid and the kernel understand them.
SPELLINGS = ["0x7f000001", "127.1", "2130706433", "0177.0.0.1", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "0", "0xC0.2.1"]
OWN: tuple[()] = ()


class Squid:
    """One process; each policy comes by reconfiguration and listens on a port of its own, so that it is known."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.pod: Host = lab.pod("router")
        self.directory = directory
        self.log = directory / "access.log"
        self.log.touch()
        self.log.chmod(0o666)
        self.rounds = 0
        self.requests = 0
        #: Requests whose addresses were told apart in rounds.
        self.several = 0
        #: What was tested here; others of this file may run elsewhere.
        self.tested: set[str] = set()
        self.proportions = Proportions()
        self.by_client = Proportions()
        self.process: subprocess.Popen[str] | None = None
        # Nothing but the DNS server is reachable, so an allowed connection fails at once.
        self.pod.ip("route replace unreachable default")
        self.pod.ip(f"-4 route add {lab.dns.address} via {self.gateway()} dev eth0 onlink")
        self.pod.ip("-6 route replace unreachable default")
        self.pod.set_resolv_conf(f"nameserver {lab.dns.address}\n")
        # Clients of the sections, in the pod itself.
        for client in CLIENTS:
            self.pod.ip(f"address add {client} dev lo nodad" if client.version == 6 else f"address add {client} dev lo")

    def gateway(self) -> str:
        return "198.51.100.1"

    def load(self, text: str) -> int:
        self.rounds += 1
        port = 20000 + self.rounds
        place = SquidPlace(directory=str(self.directory), log=str(self.log))
        policy = parse(text)
        compiled = compile_policy(policy, OWN)
        self.attributor = RuleAttributor(policy, compiled)
        for name, content in render_squid(compiled, HttpSettings(port=port), place).items():
            (self.directory / name).write_text(content)
        conf = self.directory / "squid.conf"
        check("squid", conf)
        if self.process is None:
            command = [
                "setpriv",
                "--reuid=1234",
                "--regid=0",
                "--clear-groups",
                "squid",
                "-N",
                "-n",
                "ercompiled",
            ]
            self.process = self.pod.popen([*command, "-f", str(conf)], stderr=(self.directory / "stderr").open("w"))
        else:
            self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.connect(port).close()
                return port
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, (self.directory / "stderr").read_text()[-2000:]
                time.sleep(0.01)

    def connect(self, port: int, source: Address | None = None) -> socket.socket:
        ipv6 = source is not None and source.version == 6
        client = self.pod.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(10)
        try:
            if source:
                client.bind((str(source), 0))
            client.connect(("::1" if ipv6 else "127.0.0.1", port))
        except BaseException:
            client.close()
            raise
        return client

    def allows(self, proxy: int, host: str, port: int, client_address: Address | None = None) -> bool:
        self.requests += 1
        literal = f"[{host}]" if ":" in host else host
        with self.connect(proxy, client_address) as client:
            client.sendall(f"CONNECT {literal}:{port} HTTP/1.1\r\nHost: {literal}\r\n\r\n".encode())
            status = client.recv(65536).split()[1]
        assert status in (b"403", b"500", b"502", b"503", b"200"), status
        return status != b"403"

    def logged(self, asked: list[Request]) -> Iterator[tuple[Request, RawLine]]:
        """Return what the log says about requests, and empty it."""
        deadline = time.monotonic() + 10
        while len(lines := [line for line in self.log.read_text().splitlines() if " CONNECT " in line]) < len(asked):
            assert time.monotonic() < deadline, (lines, asked)
            time.sleep(0.01)
        os.truncate(self.log, 0)
        found = {(self._plain(unquote(raw.host)), raw.port): raw for line in lines if (raw := parse_raw(line))}
        for request in asked:
            yield request, found[self._plain(request[0]), str(request[2])]

    def _plain(self, host: str) -> str:
        return str(literal_address(host) or host)


@pytest.fixture(scope="module")
def squid() -> Iterator[Squid]:
    for stale in Path("/dev/shm").glob("ercompiled*"):
        stale.unlink()
    # Not pytest's own: it takes the permission for others away from it.
    with tempfile.TemporaryDirectory() as name, Lab(nodes=1, shape="bridge") as lab:
        directory = Path(name)
        directory.chmod(0o755)
        squid = Squid(lab, directory)
        yield squid
        assert squid.process
        assert squid.process.poll() is None, "the one Squid lived through all policies"
        squid.process.kill()
        squid.process.wait()
        if "reference" in squid.tested:
            assert squid.rounds > 10
            assert squid.requests > 2000
            squid.proportions.check()
        if "sections" in squid.tested:
            denied, allowed = (
                sum(count for (which, _), count in squid.by_client.counted.items() if which is side)
                for side in (False, True)
            )
            assert denied > 500
            assert allowed > 300
        if "rounds" in squid.tested:
            assert squid.several > 10
        print(
            f"{squid.rounds} policies, {squid.requests} requests ({squid.several} in rounds)", squid.proportions.counted
        )
    for stale in Path("/dev/shm").glob("ercompiled*"):
        stale.unlink()


def load(squid: Squid, text: str, resolved: list[list[str]]) -> tuple[Policy, int, list[Request]]:
    """Load a policy about names of this round alone; return it, its port, and all that could be asked."""
    suffix = f".r{squid.rounds}"
    for name in NAMES:
        # Longest names first is not needed: every name in the text is delimited by what may follow it.
        text = "\n".join(_rename(line, name, suffix) for line in text.split("\n"))
    policy = parse(text)
    proxy = squid.load(text)
    asked = world({name + suffix: texts for name, texts in zip(NAMES, resolved, strict=True)}, SPELLINGS)
    for host, addresses, _ in asked:
        if addresses:
            v4 = [address for address in addresses if isinstance(address, IPv4Address)]
            squid.lab.dns.set(host, A=v4, AAAA=[a for a in addresses if a not in v4], ttl=60)
    return policy, proxy, asked


def ask(squid: Squid, text: str, resolved: list[list[str]]) -> tuple[Policy, list[tuple[Request, RawLine]]]:
    """Load a policy, ask, compare decisions; return what was asked and logged."""
    policy, proxy, asked = load(squid, text, resolved)
    chosen = squid.proportions.choose(policy, asked, OWN)
    for (host, addresses, port), allowed in chosen:
        assert squid.allows(proxy, host, port) == allowed, (text, host, addresses, port, allowed)
    return policy, list(squid.logged([request for request, _ in chosen]))


def check_line(squid: Squid, policy: Policy, request: Request, raw: RawLine) -> None:
    """The line is that of the reference; where there is none, the reason is as well."""
    entry = squid.attributor.decision(raw).members
    server = literal_address(raw.server) if raw.server != "-" else None
    verdict = evaluate(policy, request[0], request[2], request[1], OWN)
    assert entry["decision"] == ("allow" if verdict.allowed else "deny"), (policy, request, raw)
    assert entry["line"] in deciding(policy, request, server, OWN), (policy, request, raw, entry)
    if "closed" in verdict.why and raw.rule != "default" and entry["line"] is None:
        assert entry["reason"] in (CLOSED, "no destination")


every_policy = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)


@pytest.mark.timeout(240)
@settings(every_policy, max_examples=50)
@given(policies, resolutions)
def test_squid_is_the_reference(squid: Squid, text: str, resolved: list[list[str]]) -> None:
    squid.tested.add("reference")
    policy, logged = ask(squid, text, resolved)
    for request, raw in logged:
        check_line(squid, policy, request, raw)


@pytest.mark.timeout(240)
@settings(every_policy, max_examples=25)
@given(section_texts(), resolutions)
def test_every_client_has_the_lines_of_its_sections(squid: Squid, text: str, resolved: list[list[str]]) -> None:
    squid.tested.add("sections")
    policy, proxy, asked = load(squid, text, resolved)
    for client in CLIENTS:
        mine = for_client(policy, client)
        chosen = squid.by_client.choose(mine, asked, OWN, per_side=6)
        for (host, addresses, port), allowed in chosen:
            answer = squid.allows(proxy, host, port, client)
            assert answer == allowed, (text, client, host, addresses, port, allowed)
        for request, raw in squid.logged([request for request, _ in chosen]):
            assert raw.client == str(client)
            check_line(squid, mine, request, raw)


@pytest.mark.timeout(120)
@settings(every_policy, max_examples=5)
@given(st.integers().map(random.Random))
def test_the_line_among_many(squid: Squid, chance: random.Random) -> None:
    """Names whose addresses are in several of more than a hundred lines, at different ports, in both families."""
    policy, logged = ask(squid, many_lines(chance), many_addresses(chance))
    for request, raw in logged:
        check_line(squid, policy, request, raw)


@pytest.mark.timeout(120)
@settings(every_policy, max_examples=5)
@given(st.integers().map(random.Random))
def test_a_line_among_more_than_squid_has_sets_for(squid: Squid, chance: random.Random) -> None:
    squid.tested.add("rounds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_codes, "BLOCKS", 16)
        policy, logged = ask(squid, many_lines(chance), many_addresses(chance))
        for request, raw in logged:
            entry = squid.attributor.decision(raw).members
            if entry["decision"] == "allow" or raw.at == "-":
                check_line(squid, policy, request, raw)
            else:
                assert entry["line"] in denying(policy, request, OWN), (policy, request, raw, entry)
                squid.several += MIXED in unquote(raw.at).split(",")


def _rename(line: str, name: str, suffix: str) -> str:
    bare = line.lstrip("!").removeprefix("*.")
    host, colon, port = bare.partition(":")
    return line[: len(line) - len(bare)] + host + suffix + colon + port if host == name else line
