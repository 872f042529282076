"""A router pod under test: a lab, a client, and `egress-router` run in the pod as a container would run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

from lab import Capture, Host, Lab

SOURCE4, SOURCE6 = "192.0.2.46", "2001:db8:2::46"
ALLOWED = {SOURCE4, SOURCE6}
ENV = {
    "EGRESS_SOURCE": f"{SOURCE4} {SOURCE6}",
    "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1",
    "EGRESS_ROUTER_MODE": "init",
    "EGRESS_DAD": "off",
    "EGRESS_DAD_WAIT": "0",
    "EGRESS_LOG_FORMAT": "text",
    "EGRESS_ROUTER_DEBUG": "1",
}
RULES = """
80 tcp 203.0.113.25            # same port there
8080 tcp 203.0.113.26 80       # another port there
53 udp 203.0.113.25            # tcp and udp of one port are two rules
53 tcp 203.0.113.26
8000-8010 tcp 203.0.113.26     # a range, to the same ports there
9000-9010 tcp 203.0.113.26 7000-7010
9000-9010 UDP 203.0.113.26 7000-7010
443\ttcp\t2001:db8:113::25     # IPv6
8443 tcp 2001:db8:113::26 443
500-600 udp 2001:db8:113::26
203.0.113.27
2001:db8:113::27
"""


class Router:
    """The pod ``host`` with an egress interface made as OpenShift SDN makes it, unless ``macvlan`` says no. ``client``
    is another pod, made beside it unless it is given.
    """

    def __init__(
        self,
        lab: Lab,
        backend: str,
        *,
        macvlan: bool = True,
        rules: str = RULES,
        name: str = "router",
        node: int = 0,
        client: Host | None = None,
    ) -> None:
        self.lab = lab
        self.backend = backend
        self.host: Host = lab.pod(name, node=node)
        self.client: Host = client or lab.pod("client", node=node)
        self.env = {**ENV, "EGRESS_NAT_BACKEND": backend, "EGRESS_DESTINATION": rules}
        self.macvlan_mac = lab.macvlan(self.host) if macvlan else None

    def run(self, *words: str, check: bool = True, **env: str | None) -> subprocess.CompletedProcess[str]:
        """Run ``egress-router WORDS`` in the pod; a variable given as None is not set."""
        wanted = {key: value for key, value in {**self.env, **env}.items() if value is not None}
        command = [sys.executable, "-m", "egress_router", *words]
        return self.host.run(command, env=wanted, check=check, timeout=60)

    def init(self, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``egress-router init``."""
        return self.run("init", **options)

    def status(self, **options: Any) -> Any:
        """Return what ``egress-router status -o json`` says."""
        return json.loads(self.run("status", "-o", "json", **options).stdout)

    def tcp(self, port: int, family: int = 4, client: Host | None = None, timeout: float = 3.0) -> str:
        """Connect from the client to a port of the pod and return the answer."""
        return self.lab.tcp(client or self.client, self.host.addresses[family], port, payload="hello", timeout=timeout)

    def udp(self, port: int, family: int = 4, client: Host | None = None, timeout: float = 3.0) -> str:
        """Send a datagram from the client to a port of the pod and return the answer."""
        return self.lab.udp(client or self.client, self.host.addresses[family], port, payload="hello", timeout=timeout)

    def state(self, pod: Host | None = None) -> str:
        """Everything that a second run must leave alone, as text."""
        commands = (
            ["ip", "-d", "address"],
            ["ip", "rule"],
            ["ip", "-6", "rule"],
            ["ip", "route", "show", "table", "all"],
            ["ip", "-6", "route", "show", "table", "all"],
            ["nft", "-s", "list", "ruleset"],
            ["iptables-legacy-save"],
            ["ip6tables-legacy-save"],
        )
        text = "\n".join((pod or self.host).run(command).stdout for command in commands)
        # Only counters may differ: traffic goes on.
        return "\n".join(re.sub(r"\[\d+:\d+\]", "", line) for line in text.splitlines() if not line.startswith("#"))


def assert_answered_by(answer: str, source: str, server: str, port: int) -> None:
    """Check what an echo server of the lab saw: who asked, and which of its addresses and ports was asked."""
    peer, _, local, local_port, *_ = answer.split()
    assert (peer, local, int(local_port)) == (source, server, port), answer


def assert_no_leak(capture: Capture) -> None:
    """Nothing has left the cluster with another source than EGRESS_SOURCE, and something has left at all."""
    assert capture.sources(), "nothing was captured: this check proves nothing"
    leaks = capture.leaks(allowed=ALLOWED)
    assert not leaks, "\n".join(map(str, leaks))
