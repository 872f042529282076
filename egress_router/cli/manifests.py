"""``egress-router manifests``."""

from __future__ import annotations

from dataclasses import replace

import click

from egress_router import __version__
from egress_router.cli.once import Verb
from egress_router.cli.output import print_warnings
from egress_router.cli.sources import read_text
from egress_router.config.inputs import Problems, SourceText
from egress_router.manifests.plan import plan_manifests
from egress_router.manifests.render import join_manifests, render_manifests
from egress_router.manifests.request import complete_request
from egress_router.manifests.settings import kept_for, pair_settings, parse_settings, secret_problems
from egress_router.manifests.values import REGISTRY, Component, Forwarding, Kind, ManifestRequest, Platform
from egress_router.redirect.pair.values import ElectionNetwork


@click.command(
    "manifests",
    cls=Verb,
    epilog="""
    \b
    Examples:
      egress-router manifests redirect --name shop --source 192.0.2.46 --source 192.0.2.47 \\
        --gateway 192.0.2.1 --destinations shop.txt --platform openshift --parent-interface ens224
      egress-router manifests redirect --name shop --pair 46 --source 192.0.2.46 \\
        --gateway 192.0.2.1 --destinations shop.txt --platform kubernetes --parent-interface eth1
      egress-router manifests http-proxy --name web --source 192.0.2.43 --gateway 192.0.2.1 \\
        --destinations web.txt --platform kubernetes --parent-interface eth1 | kubectl apply -f -
    """,
)
@click.argument("component", type=click.Choice([str(item) for item in Component]))
@click.option("--name", required=True, help="Name of the Service and of everything else.")
@click.option(
    "--source",
    "sources",
    required=True,
    multiple=True,
    metavar="ADDRESS[/LENGTH]",
    help="EGRESS_SOURCE; several times for several routers behind one Service. Both families: with a comma between.",
)
@click.option(
    "--gateway",
    "gateways",
    required=True,
    multiple=True,
    metavar="ADDRESS",
    help="EGRESS_GATEWAY. One for each family of --source: given twice, or with a comma between.",
)
@click.option(
    "--pair",
    metavar="NUMBER",
    help="Two routers with the one --source, of which one has it and the other takes it over within a second. NUMBER, "
    "1 to 255, is their VRRP virtual router: no other one in the egress network may have it (docs/pair.md).",
)
@click.option(
    "--pair-network",
    type=click.Choice([str(item) for item in ElectionNetwork]),
    default=str(ElectionNetwork.EGRESS),
    show_default=True,
    help="Where the two of --pair hear each other: in the egress network (multicast), or between their pods (UDP), "
    "where that carries no VRRP.",
)
@click.option("--destinations", required=True, metavar="FILE", help="The list of destinations ('-': standard input).")
@click.option("--http-port", metavar="PORT", help="Port of the HTTP proxy.  [default: 8080]")
@click.option("--platform", required=True, type=click.Choice([str(item) for item in Platform]))
@click.option("--namespace", default="egress-routers", show_default=True)
@click.option("--kind", type=click.Choice([str(item) for item in Kind]), default="Deployment", show_default=True)
@click.option(
    "--parent-interface",
    metavar="NIC",
    help="Write a network attachment for Multus: a macvlan on this NIC of the nodes.",
)
@click.option("--sdn", is_flag=True, help="OpenShift SDN (up to OpenShift 4.16) gives the pod a macvlan.")
@click.option("--sdn-interface", metavar="NIC", help="The same, on this NIC of the nodes instead of the default one.")
@click.option("--network", metavar="[NAMESPACE/]NAME", help="Use this network attachment of Multus.")
@click.option(
    "--forwarding",
    type=click.Choice([str(item) for item in Forwarding]),
    help="Who switches IPv6 forwarding on for a redirect router: a privileged init container, sysctls of the pod, or "
    "the tuning plugin of the network attachment. IPv4 needs none. Default with an IPv6 source: network where the "
    "attachment is written here (Kubernetes), else init.",
)
@click.option("--headless", is_flag=True, help="A Service without an address of its own: clients reach any port.")
@click.option("--allow-from", multiple=True, metavar="NAMESPACE", help="Only pods of these namespaces are clients.")
@click.option("--node-selector", "selectors", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--registry",
    default=REGISTRY,
    show_default=True,
    metavar="PREFIX",
    help="Of the images, such as registry.example.com/egress; `scripts/build-images --registry` takes the same.",
)
@click.option("--tag", default="", help=f"Tag of the images.  [default: {__version__}]")
@click.option("--create-namespace", is_flag=True, help="Write the Namespace too: deleting what is written deletes it.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A further variable, such as EGRESS_HTTP_PROXY_IDLE_TIMEOUT=2h; goes to the containers that read it.",
)
@click.option(
    "--parent-secret",
    metavar="NAME[/KEY]",
    help="A Secret with http://[USER:PASSWORD@]HOST:PORT of a parent proxy under the key 'parent', for the HTTP proxy.",
)
@click.option("--service-monitor", is_flag=True, help="Write a ServiceMonitor for the Prometheus operator.")
def command(
    component: str,
    name: str,
    sources: tuple[str, ...],
    gateways: tuple[str, ...],
    pair: str | None,
    pair_network: str,
    destinations: str,
    http_port: str | None,
    platform: str,
    namespace: str,
    kind: str,
    parent_interface: str | None,
    sdn: bool,
    sdn_interface: str | None,
    network: str | None,
    forwarding: str | None,
    headless: bool,
    allow_from: tuple[str, ...],
    selectors: tuple[str, ...],
    registry: str,
    tag: str,
    create_namespace: bool,
    settings: tuple[str, ...],
    parent_secret: str | None,
    service_monitor: bool,
) -> int:
    """Write everything that a router needs in a cluster, as YAML. Touches nothing.

    What cannot work or is not safe is refused with the reason; exit code 78 then.
    """
    problems = Problems()
    variables = parse_settings(Component(component), settings, problems)
    problems.errors += secret_problems(Component(component), parent_secret)
    request = complete_request(
        ManifestRequest(
            component=Component(component),
            name=name,
            platform=Platform(platform),
            namespace=namespace,
            kind=Kind(kind),
            parent_interface=parent_interface,
            network=network,
            sdn=sdn_interface or ("true" if sdn else None),
            create_namespace=create_namespace,
            forwarding=Forwarding(forwarding) if forwarding else None,
            headless=headless,
            allow_from=allow_from,
            node_selector=tuple(dict.fromkeys(_selector(item, problems) for item in selectors)),
            registry=registry,
            tag=tag,
            service_monitor=service_monitor,
        ),
        sources,
        ",".join(gateways),
        SourceText(destinations, read_text(destinations)),
        problems,
        http_port,
        {**variables, **pair_settings(pair, ElectionNetwork(pair_network), name, namespace)},
    )
    problems.raise_if_any()
    assert request is not None
    request = replace(request, kept=kept_for(request, variables, parent_secret))
    plan = plan_manifests(request, __version__)
    print_warnings([*problems.warnings, *plan.warnings])
    click.echo(join_manifests([render_manifests(plan)]), nl=False)
    return 0


def _selector(text: str, problems: Problems) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        problems.error("--node-selector", None, text, "is not KEY=VALUE", "such as node-role.kubernetes.io/infra=true")
    return key, value
