"""Where the objects about egress IPs come from: options that the agent and the controller share, and what they make."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import click

from egress_router import __version__
from egress_router.egressip.api import address_key, address_text
from egress_router.egressip.source.groups import LocalNode
from egress_router.errors import PlatformError, UsageError
from egress_router.kubernetes.client import Client
from egress_router.kubernetes.configuration import ApiConfiguration, load_configuration
from egress_router.net.rtnetlink.kernel import Rtnetlink

DIRECTORY, KUBERNETES = "directory", "kubernetes"


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


def configuration(kubeconfig: Path | None, server: str) -> ApiConfiguration:
    """Return how to reach the API server. Raises ConfigurationError."""
    return load_configuration(os.environ, kubeconfig, server)


def client(found: ApiConfiguration, component: str) -> Client:
    """Return a client that names the component to the server."""
    return Client(found, f"egress-router-{component}/{__version__}")


def identity() -> str:
    """Return a name for this process that no other one has."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


def local_node(node: str, texts: tuple[str, ...], interface: str) -> LocalNode:
    """Return what is known of this node: the addresses that are named, else those of the interface.

    Raises UsageError for an address that is none, PlatformError when the interface has none.
    """
    words = [word for text in texts for word in text.replace(",", " ").split()]
    keys = [address_key(word) for word in words]
    bad = [word for word, key in zip(words, keys, strict=True) if key is None]
    if bad:
        raise UsageError(f"--host-ip: not the address of a node: {', '.join(bad)}")
    found = tuple(address_text(key) for key in keys if key is not None) or interface_addresses(interface)
    if not found:
        raise PlatformError(f"{interface} has no address that this node could be reached at; name one with --host-ip")
    return LocalNode(node, found)


def interface_addresses(interface: str) -> tuple[str, ...]:
    """Return the addresses of an interface with a subnet, IPv4 first: an egress IP stands there as a host address."""
    with Rtnetlink() as netlink:
        observed = netlink.observe()
    own = [
        a.address.ip
        for a in observed.addresses
        if a.interface == interface and a.global_scope and a.address.network.prefixlen < a.address.max_prefixlen
    ]
    return tuple(str(ip) for ip in sorted(own, key=lambda ip: ip.version))


def interface_subnets(interface: str) -> tuple[str, ...]:
    """Return the subnets of an interface."""
    with Rtnetlink() as netlink:
        observed = netlink.observe()
    subnets = {
        a.address.network
        for a in observed.addresses
        if a.interface == interface and a.global_scope and a.address.network.prefixlen < a.address.max_prefixlen
    }
    return tuple(sorted(map(str, subnets)))
