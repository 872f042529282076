"""``egress-router migrate``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from egress_router import __version__
from egress_router.cli import migrate_egressip
from egress_router.cli.notes import exit_code, print_notes
from egress_router.cli.once import Verb
from egress_router.cli.output import print_warnings
from egress_router.cli.sources import old_options, read_texts
from egress_router.config.inputs import Problems
from egress_router.errors import ConfigurationError
from egress_router.manifests.plan import plan_manifests
from egress_router.manifests.render import join_manifests, render_manifests
from egress_router.manifests.upstream.legacy import MigrateOptions, named, parse_legacy
from egress_router.manifests.upstream.steps import evening
from egress_router.manifests.values import (
    REGISTRY,
    Component,
    Forwarding,
    Kind,
    ManifestRequest,
    Platform,
)


class _WithEgressIPs(Verb):
    """`migrate egressip` is a command of its own; a file of that name is ./egressip."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of the one command or of the other."""
        if args[:1] == [migrate_egressip.command.name]:
            return migrate_egressip.command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(
    "migrate",
    cls=_WithEgressIPs,
    epilog="""
    \b
    Examples:
      egress-router migrate old.yaml > new.yaml
      egress-router migrate pods.yaml configmaps.yaml --accept-losses > new.yaml
      egress-router migrate egressrouter.yaml --parent-interface ens224 | oc apply -f -

    Egress IPs: egress-router migrate egressip --help.
    """,
)
@old_options
@click.option(
    "--source", "sources", multiple=True, metavar="ADDRESS[/LENGTH]", help="Instead of EGRESS_SOURCE; one a router."
)
@click.option(
    "--gateway", "gateways", multiple=True, metavar="ADDRESS", help="Instead of EGRESS_GATEWAY; one of each family."
)
@click.option("--platform", type=click.Choice([str(item) for item in Platform]), default="openshift", show_default=True)
@click.option("--namespace", default="egress-routers", show_default=True, help="Where the old manifest has none.")
@click.option("--kind", type=click.Choice([str(item) for item in Kind]), default="Deployment", show_default=True)
@click.option("--parent-interface", metavar="NIC", help="Write a network attachment for Multus on this NIC.")
@click.option(
    "--sdn", is_flag=True, help="OpenShift SDN gives the pod a macvlan, where the old manifest does not say so."
)
@click.option("--network", metavar="[NAMESPACE/]NAME", help="Use this network attachment of Multus.")
@click.option("--forwarding", type=click.Choice([str(item) for item in Forwarding]), help="As `manifests` has it.")
@click.option(
    "--headless", is_flag=True, help="A Service without an address of its own, where the old manifest has none."
)
@click.option("--registry", default=REGISTRY, show_default=True, metavar="PREFIX", help="Of the images.")
@click.option("--tag", default="", help=f"Tag of the images.  [default: {__version__}]")
@click.option("--accept-losses", is_flag=True, help="End with 0 where something is lost.")
@click.pass_context
def command(
    context: click.Context,
    old: tuple[str, ...],
    named_files: tuple[str, ...],
    sources: tuple[str, ...],
    gateways: tuple[str, ...],
    platform: str,
    namespace: str,
    kind: str,
    parent_interface: str | None,
    sdn: bool,
    network: str | None,
    forwarding: str | None,
    headless: bool,
    registry: str,
    tag: str,
    accept_losses: bool,
) -> int:
    """Turn manifests of origin-egress-router, origin-egress-http-proxy, origin-egress-dns-proxy, or an EgressRouter of
    OVN-Kubernetes, into ours. What is ours already comes out as it is.

    OLD.yaml are files, directories or standard input ('-'). On standard error stands what was already wrong, what is
    the same, what changed, and what is lost: exit code 65 then, unless --accept-losses says that it may be.
    """
    if not old and not named_files:
        raise click.UsageError("which manifests? OLD.yaml is missing ('-': standard input)")
    names = {
        "source": "sources",
        "gateway": "gateways",
        "parent-interface": "parent_interface",
        "network": "network",
        "sdn": "sdn",
        "kind": "kind",
        "platform": "platform",
        "registry": "registry",
        "tag": "tag",
        "forwarding": "forwarding",
    }
    given = frozenset(
        option for option, name in names.items() if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
    defaults = ManifestRequest(
        component=Component.REDIRECT,
        name="",
        platform=Platform(platform),
        namespace=namespace,
        kind=Kind(kind),
        parent_interface=parent_interface,
        network=network,
        sdn="true" if sdn else None,
        forwarding=Forwarding(forwarding) if forwarding else None,
        headless=headless,
        registry=registry,
        tag=tag,
    )
    problems = Problems()
    files = read_texts((*named_files, *old), problems)
    sets, notes = parse_legacy(files, MigrateOptions(defaults, given, sources, ",".join(gateways)), problems)
    texts = []
    for one in sets:
        try:
            plan = plan_manifests(one.request, __version__)
        except ConfigurationError as error:
            problems.errors += [named(problem, one.first, given) for problem in error.problems]
            continue
        problems.warnings += [named(problem, one.first, given) for problem in plan.warnings]
        texts.append(render_manifests(plan))
    print_notes(notes)
    print_warnings(problems.warnings)
    problems.raise_if_any()
    output = join_manifests(texts)
    click.echo(evening([one.request for one in sets], [item for one in sets for item in one.old]), err=True, nl=False)
    click.echo(output, nl=False)
    return exit_code(notes, accept_losses=accept_losses)
