"""``egress-router migrate egressip``."""

from __future__ import annotations

import click

from egress_router.cli.notes import exit_code, print_notes
from egress_router.cli.once import Verb
from egress_router.cli.output import print_warnings
from egress_router.cli.sources import old_options, read_texts
from egress_router.config.inputs import Problems
from egress_router.manifests.egress_ips.migrate import migrate_egress_ips

API, FILES = "api", "files"


@click.command(
    "egressip",
    cls=Verb,
    epilog="""
    \b
    Examples:
      kubectl get egressips.k8s.ovn.org,nodes -o yaml > old.yaml
      egress-router migrate egressip old.yaml > new.yaml

    What else to get, and in which order to change over: docs/migrate-egress-ips.md.
    """,
)
@old_options
@click.option(
    "--to",
    "target",
    type=click.Choice([API, FILES]),
    default=API,
    show_default=True,
    help="Objects of the Kubernetes API, or those of a state directory, for agents on files.",
)
@click.option("--accept-losses", is_flag=True, help="End with 0 where something is lost.")
def command(old: tuple[str, ...], named_files: tuple[str, ...], target: str, *, accept_losses: bool) -> int:
    """Turn egress IPs of OpenShift SDN (NetNamespace, HostSubnet), OVN-Kubernetes (EgressIP), Cilium
    (CiliumEgressGatewayPolicy), Antrea (Egress, ExternalIPPool) and spidernet (EgressGateway, EgressPolicy,
    EgressClusterPolicy) into ours, each address on the node that has it now.

    OLD.yaml are files, directories or standard input ('-'), as `kubectl get -o yaml` prints them; Nodes among them tell
    more. On standard error stands what was already wrong, what the objects became, what changed, and what is lost: exit
    code 65 then, unless --accept-losses says that it may be.
    """
    if not old and not named_files:
        raise click.UsageError("which objects? OLD.yaml is missing ('-': standard input)")
    problems = Problems()
    files = read_texts((*named_files, *old), problems)
    text, notes = migrate_egress_ips(files, problems, to_files=target == FILES)
    print_notes(notes)
    print_warnings(problems.warnings)
    problems.raise_if_any()
    click.echo(text, nl=False)
    return exit_code(notes, accept_losses=accept_losses)
