"""``egress-router migrate``."""

from __future__ import annotations

import click

from egress_router import __version__
from egress_router.cli.output import print_warnings
from egress_router.cli.sources import read_text
from egress_router.config.inputs import Problems, SourceText
from egress_router.errors import ConfigurationError
from egress_router.manifests.plan import plan_manifests
from egress_router.manifests.render import join_manifests, render_manifests
from egress_router.manifests.request import complete_request
from egress_router.manifests.upstream.manifest import parse_legacy
from egress_router.manifests.values import REGISTRY, Component, Kind, ManifestRequest, Note, NoteKind, Platform


@click.command(
    "migrate",
    epilog="""
    \b
    Examples:
      egress-router migrate old.yaml > new.yaml
      egress-router migrate egressrouter.yaml --parent-interface ens224 | oc apply -f -
    """,
)
@click.argument("old", metavar="OLD.yaml")
@click.option("--platform", type=click.Choice([str(item) for item in Platform]), default="openshift", show_default=True)
@click.option("--namespace", default="egress-routers", show_default=True, help="Where the old manifest has none.")
@click.option("--kind", type=click.Choice([str(item) for item in Kind]), default="Deployment", show_default=True)
@click.option("--parent-interface", metavar="NIC", help="Write a network attachment for Multus on this NIC.")
@click.option("--network", metavar="[NAMESPACE/]NAME", help="Use this network attachment of Multus.")
@click.option("--registry", default=REGISTRY, show_default=True, metavar="PREFIX", help="Of the images.")
@click.option("--tag", default="", help=f"Tag of the images.  [default: {__version__}]")
def command(
    old: str,
    platform: str,
    namespace: str,
    kind: str,
    parent_interface: str | None,
    network: str | None,
    registry: str,
    tag: str,
) -> int:
    """Turn manifests of origin-egress-router, origin-egress-http-proxy, origin-egress-dns-proxy, or an EgressRouter of
    OVN-Kubernetes, into ours.

    OLD.yaml is a file ('-': standard input). What changed, and what was already wrong, is on standard error.
    """
    defaults = ManifestRequest(
        component=Component.REDIRECT,
        name="",
        platform=Platform(platform),
        namespace=namespace,
        kind=Kind(kind),
        parent_interface=parent_interface,
        network=network,
        sdn="true" if platform == "openshift" and not (network or parent_interface) else None,
        registry=registry,
        tag=tag,
    )
    problems = Problems()
    routers, notes = parse_legacy(read_text(old), old, defaults, problems)
    texts = []
    for router in routers:
        destinations = SourceText(router.destinations_name, router.destinations)
        request = complete_request(
            router.request, [router.source], router.gateway, destinations, problems, router.http_port
        )
        if request is None:
            continue
        try:
            plan = plan_manifests(request, __version__)
        except ConfigurationError as error:
            problems.errors += error.problems
            continue
        problems.warnings += plan.warnings
        texts.append(render_manifests(plan))
    _print_notes(notes)
    print_warnings(problems.warnings)
    problems.raise_if_any()
    click.echo(join_manifests(texts), nl=False)
    return 0


def _print_notes(notes: list[Note]) -> None:
    """Print what was wrong before what changed, each once."""
    for kind in NoteKind:
        for note in dict.fromkeys(notes):
            if note.kind is kind:
                click.echo(str(note), err=True)
