"""Options that verbs about egress IPs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from egress_router.config import fields
from egress_router.config.settings import PAGE_HOSTS
from egress_router.egressip.node.state import PROBE_PORT

DIRECTORY, KUBERNETES = "directory", "kubernetes"
STATE_OPTION = click.option(
    "--state",
    "state",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="EGRESS_STATE_DIR",
    default=Path("/var/lib/egress-router/state"),
    show_default=True,
    help="Directory with the cluster's objects (YAML or JSON); EGRESS_STATE_DIR sets it too.",
)
PROBE_PORT_OPTION = click.option(
    "--probe-port",
    type=click.IntRange(1, 65535),
    envvar="EGRESS_PROBE_PORT",
    default=PROBE_PORT,
    show_default=True,
    help="UDP, between agents; the same on every node. EGRESS_PROBE_PORT sets it too.",
)


KEYS_OPTION = click.option(
    "--agent-keys",
    "keys",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="EGRESS_AGENT_KEYS",
    default=None,
    metavar="FILE",
    help="Keys, one on each line, that agents and controllers sign with what they tell each other (default: unsigned); "
    "EGRESS_AGENT_KEYS sets it too.",
)


class _PortOrOff(click.ParamType[int]):
    name = "port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the port, 0 for ``off``."""
        text = str(value).strip().lower()
        if text == "off":
            return 0
        port = fields.port(text)
        if isinstance(port, fields.Invalid):
            self.fail(f"{value!r} {port}; {fields.EXPECTED_PORT}, or off", param, ctx)
        return port


def health_options(port: int, where: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return the options of the endpoint; ``where`` it listens by default, in words."""

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        function = click.option(
            "--page-host",
            multiple=True,
            metavar="NAME",
            envvar=PAGE_HOSTS,
            help="A name by which browsers ask for / and /status there, such as that of an Ingress; addresses, "
            "localhost and names of Services are always taken. May be repeated; EGRESS_PAGE_HOSTS: a list.",
        )(function)
        function = click.option(
            "--health-address",
            envvar="EGRESS_HEALTH_ADDRESS",
            default="",
            metavar="IP",
            help=f"Where that port listens (default: {where}); EGRESS_HEALTH_ADDRESS sets it too.",
        )(function)
        return click.option(
            "--health-port",
            type=_PortOrOff(),
            envvar="EGRESS_HEALTH_PORT",
            default=str(port),
            show_default=True,
            help="TCP: /healthz, /readyz, /metrics and /status; off for none. EGRESS_HEALTH_PORT sets it too.",
        )(function)

    return decorate


def source_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add --source, --kubeconfig and --api-server."""
    for option in (
        click.option(
            "--api-server",
            envvar="EGRESS_API_SERVER",
            default="",
            metavar="URL",
            help="Use this URL instead of the one of the pod or the kubeconfig; EGRESS_API_SERVER sets it too.",
        ),
        click.option(
            "--kubeconfig",
            type=click.Path(path_type=Path, dir_okay=False),
            help="With --source kubernetes outside of a pod (default: KUBECONFIG, or ~/.kube/config).",
        ),
        click.option(
            "--source",
            "origin",
            type=click.Choice([DIRECTORY, KUBERNETES]),
            envvar="EGRESS_STATE_SOURCE",
            default=DIRECTORY,
            show_default=True,
            help="Where the objects are: files in --state, or the Kubernetes API.",
        ),
    ):
        function = option(function)
    return function
