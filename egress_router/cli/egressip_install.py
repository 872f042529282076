"""``egress-router egressip install --check``: whether a cluster fits, before anything is applied."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from egress_router.cli.address_lists import words
from egress_router.cli.once import Verb
from egress_router.cli.output import print_json, table
from egress_router.cli.sources import read_texts
from egress_router.config.inputs import Problems
from egress_router.egressip.api import network_range
from egress_router.egressip.fit.cluster_networks import inside
from egress_router.egressip.fit.judge import fits, judge
from egress_router.egressip.fit.look import look
from egress_router.egressip.fit.this_machine import findings as node_findings
from egress_router.egressip.fit.values import Finding, Level
from egress_router.egressip.node.state import PROBE_PORT, TUNNEL_PORT
from egress_router.egressip.process import api_client
from egress_router.errors import PlatformError, UsageError
from egress_router.kubernetes.configuration import load_configuration
from egress_router.manifests.egress_ips.fields import egress_address
from egress_router.manifests.objects import read_objects

#: It was not found out whether the cluster fits.
NOT_KNOWN = 1
#: What of ours listens on the nodes.
PORTS = {
    ("UDP", TUNNEL_PORT): "the tunnel",
    ("UDP", PROBE_PORT): "what agents tell each other",
    ("TCP", PROBE_PORT): "what agents tell standbys",
    ("TCP", 9910): "the agents' health",
    ("TCP", 9911): "the controllers' health",
}


@click.command(
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router egressip install --check
      egress-router egressip install --check --cluster 10.244.0.0/16,10.96.0.0/12,192.0.2.0/24 -f egressips.yaml
    """,
)
@click.option("--check", is_flag=True, help="Look at the cluster and say whether ours can work there.")
@click.option(
    "--this-machine",
    is_flag=True,
    help="Look at this machine, a node, instead of the API: what no object tells, kernel options and rp_filter.",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Default: KUBECONFIG, ~/.kube/config."
)
@click.option("--api-server", default="", metavar="URL", help="Use this URL instead of that of the kubeconfig.")
@click.option(
    "--cluster",
    "networks",
    multiple=True,
    metavar="CIDR,CIDR…",
    help="The networks of pods, services and nodes as they shall stand in the settings. May be repeated.",
)
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="EgressIPs that shall be applied.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def install(
    *,
    check: bool,
    this_machine: bool,
    kubeconfig: Path | None,
    api_server: str,
    networks: tuple[str, ...],
    files: tuple[str, ...],
    output: str,
) -> int:
    """Say before anything is applied whether this cluster fits. Only reads, and lists what it may not read.

    Ends with 0 where ours can work, with 69 where they cannot, and with 1 where what decides could not be looked at.
    """
    if not check:
        raise UsageError(
            "what is installed is applied with kubectl (docs/egress-ips-kubernetes.md); --check looks first"
        )
    if this_machine:
        return _answer(node_findings(Path("/"), os.uname().release), output)
    named = words(networks)
    if wrong := [word for word in named if network_range(word) is None]:
        raise UsageError(f"--cluster: not a CIDR such as 10.244.0.0/16: {', '.join(wrong)}")
    addresses = _addresses(files)
    picture = look(api_client(load_configuration(os.environ, kubeconfig, api_server), "install"))
    found = judge(picture, named, addresses, PORTS)
    more = {"clusterNetworks": inside(picture), "notLookedAt": dict(picture.unseen)}
    return _answer(found, output, more)


def _answer(found: Sequence[Finding], output: str, more: Mapping[str, object] | None = None) -> int:
    """Print the findings, as JSON with ``more``; return the exit code."""
    answer = fits(found)
    if output == "json":
        checks = [
            {"level": one.level.value, "check": one.check, "found": one.found, "advice": one.advice} for one in found
        ]
        print_json({"fits": answer, "checks": checks, **(more or {})})
    else:
        click.echo(_text(found))
        click.echo({True: "ours can work here", False: "ours cannot work here", None: "not known"}[answer])
    return {True: 0, False: PlatformError.exit_code, None: NOT_KNOWN}[answer]


def _addresses(files: Sequence[str]) -> list[str]:
    """Return the egress IPs of the EgressIPs in files. Raises ConfigurationError."""
    problems = Problems()
    objects = read_objects(read_texts(files, problems) if files else [], problems)
    found = []
    for item in objects:
        listed = item.spec.get("egressIPs") if item.kind == "EgressIP" else None
        for entry in listed if isinstance(listed, list) else []:
            address = egress_address(entry) if isinstance(entry, str) else None
            if address is None:
                problems.error(item.file, None, str(entry), f"{item.where}: spec.egressIPs is not an address of a node")
            else:
                found.append(address)
    problems.raise_if_any()
    if files and not found:
        raise UsageError(f"-f: there is no EgressIP in {', '.join(files)}")
    return found


def _text(found: Sequence[Finding]) -> str:
    """Return a line for each finding, what is refused in capitals, and below it what to do."""
    levels = [one.level.upper() if one.level is Level.REFUSED else one.level.value for one in found]
    rows = table([(level, one.check, one.found) for level, one in zip(levels, found, strict=True)]).split("\n")
    return "\n".join(f"{row}\n    -> {one.advice}" if one.advice else row for row, one in zip(rows, found, strict=True))
