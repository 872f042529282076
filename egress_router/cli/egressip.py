"""``egress-router egressip``: see and change which namespace leaves with which address; the controller."""

from __future__ import annotations

from pathlib import Path

import click

from egress_router.cli.address_lists import addresses, words
from egress_router.cli.egressip_controller import controller
from egress_router.cli.egressip_explain import explain
from egress_router.cli.egressip_install import install
from egress_router.cli.egressip_options import STATE_OPTION
from egress_router.cli.egressip_report import report
from egress_router.cli.once import VerbGroup
from egress_router.egressip.api import except_network, network_range
from egress_router.egressip.assignment.decision import decide, decision_json, decision_text
from egress_router.egressip.controller.leader_election import record_assignment
from egress_router.egressip.source.directory import passed_over, read_directory
from egress_router.egressip.source.patch import patch_object
from egress_router.errors import UsageError

STANDBY_OPTION = click.option(
    "--standby", is_flag=True, envvar="EGRESS_STANDBY", help="Each address that is assigned gets a standby node."
)


@click.group(
    name="egressip",
    cls=VerbGroup,
    epilog="""
    \b
    Examples:
      egress-router egressip patch netnamespace toto --egress-ips 192.0.2.45,192.0.2.54
      egress-router egressip patch netnamespace toto --except 10.0.0.0/8
      egress-router egressip patch hostsubnet compute3 --egress-ips 192.0.2.45
      egress-router egressip plan --state /var/lib/egress-router/state --offline compute3
      egress-router egressip explain toto 203.0.113.7
      egress-router egressip controller --witness 192.0.2.1
      egress-router egressip install --check
    """,
)
def command() -> None:
    """Namespace egress IPs: decide and change them."""


command.add_command(controller)
command.add_command(explain)
command.add_command(install)
command.add_command(report)


@command.command()
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Decide as if this node were down; may be repeated.")
@STANDBY_OPTION
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(state: Path, offline: tuple[str, ...], standby: bool, output: str) -> int:
    """Print what is decided for the objects in a directory. Changes nothing."""
    cluster = read_directory(state)
    unknown = sorted(set(offline) - cluster.nodes.keys())
    if unknown:
        raise UsageError(f"--offline: there is no HostSubnet {', '.join(unknown)} in {state}")
    for line in passed_over(state, cluster):
        click.echo(f"warning: {line}", err=True)
    decision = decide(cluster, offline, standby=standby)
    click.echo(decision_json(decision) if output == "json" else decision_text(decision))
    return 0


@command.command()
@STATE_OPTION
@click.option("--offline", multiple=True, metavar="NODE", help="Give this node nothing; may be repeated.")
@STANDBY_OPTION
def assign(state: Path, offline: tuple[str, ...], standby: bool) -> int:
    """Assign egress IPs to nodes with egressCIDRs, and write it down (EgressIPAssignment) for the agents.

    Once; `controller` goes on doing it. Agents hold what is written down, whatever they think is offline.
    """
    decision = record_assignment(state, offline, standby=standby)
    for node, ips in decision.assignment.items():
        click.echo(f"{node}: {', '.join(ips)}")
    return 0


@command.group()
def patch() -> None:
    """Change the egress IPs of a namespace or a node. An empty list ("") takes all away."""


@patch.command()
@click.argument("name")
@STATE_OPTION
@click.option("--egress-ips", metavar="IP,IP…", help="The namespace's egress IPs, the preferred first.")
@click.option("--except", "excepted", metavar="CIDR,CIDR…", help="What its pods reach directly, by no egress IP.")
def netnamespace(name: str, state: Path, egress_ips: str | None, excepted: str | None) -> int:
    """Give a namespace its egress IPs, and the networks that it reaches without them."""
    fields = {}
    if egress_ips is not None:
        fields["egressIPs"] = _egress_ips(egress_ips)
    if excepted is not None:
        fields["except"] = _excepted(excepted)
    if not fields:
        raise UsageError("give --egress-ips, --except or both")
    path = patch_object(state, "NetNamespace", name, fields)
    click.echo(f"netnamespace {name} patched ({path})")
    return 0


@patch.command()
@click.argument("name")
@STATE_OPTION
@click.option("--egress-ips", metavar="IP,IP…", help="The egress IPs that the node holds by hand.")
@click.option("--egress-cidrs", metavar="CIDR,CIDR…", help="The node may be given any listed egress IP in these.")
def hostsubnet(name: str, state: Path, egress_ips: str | None, egress_cidrs: str | None) -> int:
    """Give a node the right to hold egress IPs."""
    fields = {}
    if egress_ips is not None:
        fields["egressIPs"] = _egress_ips(egress_ips)
    if egress_cidrs is not None:
        fields["egressCIDRs"] = _cidrs(egress_cidrs)
    if not fields:
        raise UsageError("give --egress-ips, --egress-cidrs or both")
    path = patch_object(state, "HostSubnet", name, fields)
    click.echo(f"hostsubnet {name} patched ({path})")
    return 0


def _egress_ips(text: str) -> list[str]:
    return addresses("--egress-ips", [text], "an address that a node can hold")


def _excepted(text: str) -> list[str]:
    found = [(word, *except_network(word)) for word in words([text])]
    wrong = [
        f"{word} is not a network without host bits; expected {expected}" for word, _, expected in found if expected
    ]
    if wrong:
        raise UsageError(f"--except: {'; '.join(wrong)}")
    return [network for _, network, _ in found]


def _cidrs(text: str) -> list[str]:
    found = words([text])
    bad = [word for word in found if network_range(word) is None]
    if bad:
        raise UsageError(f"--egress-cidrs: not a CIDR such as 192.0.2.0/24: {', '.join(bad)}")
    return found
