"""Take everything away that an agent has put into its node's kernel: after this, pods leave as if it had never run."""

from __future__ import annotations

from pathlib import Path

from egress_router.egressip.node.claims import egress_ips, remove_egress_ip
from egress_router.egressip.node.connections import cut_egress_ips
from egress_router.egressip.node.control import ask
from egress_router.egressip.node.encryption import KEY_SUFFIX
from egress_router.egressip.node.forward_policy import remove_rules
from egress_router.egressip.node.guard import GUARD
from egress_router.egressip.node.leave import LEAVE, LEAVE_SUFFIX
from egress_router.egressip.node.nft_rules import TABLE
from egress_router.egressip.node.state import ENCRYPTED, NODE_PROTOCOL, TUNNEL
from egress_router.egressip.node.tables import load
from egress_router.errors import TryAgainError
from egress_router.net.process import run_tool
from egress_router.net.rtnetlink.kernel import RouteNetlink, Rtnetlink


def uninstall_node(socket: Path) -> list[str]:
    """Take everything of an agent away from this machine, whose control socket it is: see ``uninstall``. Raises
    TryAgainError when an agent still runs.
    """
    try:
        ask(socket, "status")
    except TryAgainError:
        pass
    else:
        raise TryAgainError(f"an agent answers on {socket}; end it first, or it puts back what is removed")
    with Rtnetlink() as kernel:
        removed = uninstall(kernel)
    for suffix in (".drain", LEAVE_SUFFIX, KEY_SUFFIX):
        socket.with_suffix(suffix).unlink(missing_ok=True)
    return removed


def uninstall(kernel: RouteNetlink) -> list[str]:
    """Remove addresses, tables, rules, routes and the tunnel, and return what was removed, a line each.

    Addresses go before the tables: no packet leaves with an egress IP that nothing translates back. Their connections
    are cut, so that clients begin new ones. Raises EgressRouterError; it may be called again.
    """
    removed: list[str] = []
    addresses: list[str] = []
    for link in kernel.links():
        for ip in sorted(egress_ips(kernel, link)):
            remove_egress_ip(kernel, link, ip)
            removed.append(f"address {ip} of {link.name}")
            addresses.append(ip)
    cut_egress_ips(addresses)
    families = ("inet", "arp", "ip", "ip6", "netdev")
    ours = tuple(f"table {family} {name}" for family in families for name in (TABLE, GUARD, LEAVE))
    # A process that was killed while it asked for nft's wording leaves such a table, dormant.
    asked = tuple(f"{table}_wording_" for table in ours)
    listed = run_tool(["nft", "list", "tables"]).splitlines()
    tables = [line for line in listed if line in ours or line.startswith(asked)]
    load("".join(f"delete {table}\n" for table in tables))
    removed += tables
    for rule in kernel.rules():
        if rule.protocol == NODE_PROTOCOL:
            kernel.remove_rule(rule)
            removed.append(f"rule {rule}")
    indices = {link.name: link.index for link in kernel.links()}
    for route in kernel.routes(NODE_PROTOCOL):
        kernel.remove_route(route, indices.get(route.interface) if route.interface else None)
        removed.append(f"route {route}")
    removed += remove_rules()
    for name in (TUNNEL, ENCRYPTED):
        tunnel = kernel.link(name)
        if tunnel is not None:
            kernel.remove_link(tunnel)
            removed.append(f"link {name}")
    return removed
