"""Golden cases: a folder each, with the environment and what becomes of it in one fixed pod.

``env`` is text that a shell could read; a ``*_FILE`` variable names a file of the folder. ``network`` (addresses,
routes, policy rules, sysctls), ``nft`` and ``iptables`` are what is planned, or ``error`` says why nothing is.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from egress_router.config.inputs import Inputs, Problems, load_inputs, read_file_variable, warn_unknown
from egress_router.config.values import Address, Family, HostName
from egress_router.dns.resolv_conf import nameservers
from egress_router.errors import ConfigurationError
from egress_router.net.nft.script import replace_script
from egress_router.net.rtnetlink.values import MAIN_TABLE, Link, LinkAddress, Observed, Route
from egress_router.redirect.config import parse_router
from egress_router.redirect.egress_link import choose_egress_link
from egress_router.redirect.iptables_rules import iptables_tables, iptables_text
from egress_router.redirect.network_state import NetworkState
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.plan import find_cluster_interface, plan_network, plan_translation
from egress_router.redirect.values import Backend, Mode, RouterConfig

FOLDER = Path(__file__).parent / "expected"
#: The file that shows what a backend does.
BACKENDS = {Backend.NFTABLES: "nft", Backend.IPTABLES: "iptables"}

_BOOT, _KERNEL = 3, 2
RESOLV_CONF = "search svc.cluster.example\nnameserver 172.30.0.10\nnameserver 2001:db8:30::a\n"
POD = Observed(
    links=(
        Link(1, "lo", "", "00:00:00:00:00:00", 65536, up=True, lower_up=True),
        Link(2, "eth0", "veth", "0a:58:0a:80:02:05", 1450, up=True, lower_up=True),
        Link(3, "macvlan0", "macvlan", "02:00:c0:00:02:2e", 1500, up=False, lower_up=False),
        Link(4, "net1", "macvlan", "02:00:c0:00:02:2f", 1500, up=False, lower_up=False),
    ),
    addresses=(
        LinkAddress("lo", ip_interface("127.0.0.1/8"), global_scope=False),
        LinkAddress("eth0", ip_interface("10.128.2.5/23")),
        LinkAddress("eth0", ip_interface("2001:db8:c:2::5/64")),
    ),
    routes=(
        Route(
            Family.IPV4,
            MAIN_TABLE,
            ip_interface("10.128.2.0/23").network,
            "eth0",
            source=ip_address("10.128.2.5"),
            protocol=_KERNEL,
        ),
        Route(
            Family.IPV4,
            MAIN_TABLE,
            ip_interface("0.0.0.0/0").network,
            "eth0",
            gateway=ip_address("10.128.2.1"),
            protocol=_BOOT,
        ),
        Route(
            Family.IPV6,
            MAIN_TABLE,
            ip_interface("2001:db8:c:2::/64").network,
            "eth0",
            metric=256,
            protocol=_KERNEL,
        ),
        Route(
            Family.IPV6,
            MAIN_TABLE,
            ip_interface("::/0").network,
            "eth0",
            gateway=ip_address("2001:db8:c:2::1"),
            metric=1024,
            protocol=_BOOT,
        ),
    ),
)


@dataclass(frozen=True)
class Case:
    """A folder."""

    path: Path

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.path.name

    def env(self) -> dict[str, str]:
        """The variables of the case."""
        words = shlex.split((self.path / "env").read_text(), comments=True)
        return dict((name, value) for name, _, value in (word.partition("=") for word in words))  # noqa: C402

    def inputs(self) -> Inputs:
        """The variables, and the files that they name."""
        return load_inputs(self.env(), lambda name, path: read_file_variable(name, str(self.path / path)))

    def used_files(self) -> set[str]:
        """Every file that the case reads or that shows its outcome."""
        named = {value for name, value in self.env().items() if name.endswith("_FILE")}
        return {"env", *named, *(["answers"] if self.answers() else []), *outcome(self)}

    def answers(self) -> dict[HostName, tuple[Address, ...]]:
        """What was looked up, a line each in the file ``answers``: a name and its addresses."""
        path = self.path / "answers"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return {HostName(name): tuple(map(ip_address, found)) for name, *found in lines}


def cases() -> list[Case]:
    """Return all cases."""
    return [Case(path) for path in sorted(FOLDER.iterdir()) if path.is_dir()]


def parse(case: Case) -> tuple[RouterConfig | None, Problems]:
    """Read the case's environment."""
    problems = Problems()
    inputs = case.inputs()
    config = parse_router(inputs, problems)
    warn_unknown(inputs, problems)
    return config, problems


def outcome(case: Case) -> Mapping[str, str]:
    """Return what the case should hold: file name → text."""
    config, problems = parse(case)
    warnings = "".join(f"warning: {problem}\n" for problem in problems.warnings)
    if config is None:
        return {"error": f"{ConfigurationError(problems.errors)}\n{warnings}"}
    cluster = find_cluster_interface(POD, config.interface)
    egress = choose_egress_link(config.interface, POD.links, cluster).name
    network = plan_network(config, POD, egress, nameservers(RESOLV_CONF))
    translation = plan_translation(config, network, case.answers())
    tables = {family: iptables_text(iptables_tables(translation, family)) for family in Family}
    return {
        "network": _network_text(network) + warnings,
        "nft": replace_script(nft_table(translation)),
        "iptables": "".join(f"# {family}\n{text}" for family, text in tables.items()),
    }


def _network_text(network: NetworkState) -> str:
    items = (*network.addresses, *network.routes, *network.rules, *network.sysctls)
    gone = [f"displaced {route}" for route in network.displaced]
    return "".join(f"{line}\n" for line in (*map(str, items), *gone))


def covered() -> set[tuple[Mode, Backend]]:
    """The modes and backends whose outcome a case shows."""
    found = set()
    for case in cases():
        config, _ = parse(case)
        for backend, file in BACKENDS.items():
            if config is not None and (case.path / file).is_file():
                found.add((config.mode, backend))
    return found
