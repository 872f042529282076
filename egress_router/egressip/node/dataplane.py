"""Make one node's kernel hold a NodeState, in an order in which no packet ever leaves with a wrong source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from ipaddress import ip_address

from egress_router.egressip.node.claims import add_egress_ip, egress_ips, remove_egress_ip
from egress_router.egressip.node.connections import cut_egress_ips, cut_slot, cut_stale, lead_to, take_over_marks
from egress_router.egressip.node.encryption import Encryption
from egress_router.egressip.node.foreign_marks import rules_before
from egress_router.egressip.node.forward_policy import accept_tunnel
from egress_router.egressip.node.leave import PROBLEM, leaves
from egress_router.egressip.node.marks import OWN_SLOT
from egress_router.egressip.node.nft_rules import ABSENT
from egress_router.egressip.node.overlays import address_among_pods, loosen, overlay_links
from egress_router.egressip.node.repair import NetworkWatch, TamperingGuard, summary
from egress_router.egressip.node.routes import present_slots, set_gateways
from egress_router.egressip.node.state import TUNNEL, Gateway, NodeSettings, NodeState
from egress_router.egressip.node.table_maker import TableMaker
from egress_router.egressip.node.tables import assigned_before, marks_before, tables
from egress_router.egressip.node.tunnel import ensure_tunnel, set_peers, tunnel_gateway, tunnel_mtu
from egress_router.errors import StateMismatch, ToolFailed, ToolHangs
from egress_router.net import capabilities
from egress_router.net.conntrack import Conntrack
from egress_router.net.nft.values import NftTable
from egress_router.net.process import run_tool
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import Link, LinkAddress, Observed
from egress_router.net.translations import make_translations, open_translations, untranslated


def require_all() -> None:
    """Check that this process may do all that an agent does, before anything is opened or changed.

    Raises CapabilityError without NET_ADMIN or NET_RAW, PlatformError without nft or where the kernel cannot list
    tracked connections.
    """
    capabilities.require(("NET_ADMIN", "NET_RAW"), "the agent of a node")
    run_tool(["nft", "--version"])
    with Conntrack() as conntrack:
        conntrack.check()


class NodeDataplane:
    """The kernel of one node. Remembers what it has put there; ``forget`` makes the next ``apply`` put all anew."""

    def __init__(
        self,
        settings: NodeSettings,
        host_ip: str,
        link: Link,
        log: Callable[[str], None],
        encryption: Encryption | None = None,
    ) -> None:
        self._settings = settings
        self._host_ip = host_ip
        self._link = link
        self._log = log
        self._encryption = encryption
        self._applied: NodeState | None = None
        self._nft = tables()
        self._maker = TableMaker(settings)
        #: The tables that the kernel has, once there are any, and the generation of its rules at which they were seen.
        self._tables: tuple[NftTable, ...] = ()
        self._seen_at = -1
        self._addresses: frozenset[str] = frozenset()
        self.netlink = Rtnetlink()
        #: Hears when somebody else changes what ``repair`` looks at.
        self.network = NetworkWatch(link.index)
        self._tampering = TamperingGuard()
        #: Connections deleted since the start.
        self.cut = 0

    @property
    def applied(self) -> NodeState | None:
        """The state that the kernel holds, None before the first ``apply``."""
        return self._applied

    def forget(self) -> None:
        """Trust nothing: replace everything at the next ``apply``."""
        self._applied = None

    def adopt(self) -> frozenset[str]:
        """Take over the egress IPs that an earlier agent has put on the interface, and return them."""
        on_link = {str(a.address.ip) for a in self.observed().addresses if a.interface == self._link.name}
        self._addresses = egress_ips(self.netlink, self._link) | (assigned_before() & on_link)
        return self._addresses

    def slots_before(self, nodes: Mapping[str, str]) -> dict[str, int]:
        """Return the slots that an earlier agent gave to nodes (name → hostIP)."""
        by_gateway = present_slots(self.netlink)
        found: dict[str, int] = {}
        for name, host_ip in sorted(nodes.items()):
            slot = next((by_gateway[g] for g in _gateways(host_ip) if g in by_gateway), None)
            if slot is not None and slot not in found.values():
                found[name] = slot
        return found

    def addresses(self) -> Collection[LinkAddress]:
        """Return the addresses of the node."""
        return self.netlink.addresses()

    def observed(self) -> Observed:
        """Return the links, addresses, routes and rules of the node."""
        return self.netlink.observe()

    def add(self, ip: str) -> None:
        """Put an egress IP on the interface."""
        add_egress_ip(self.netlink, self._link, ip)
        self._addresses |= {ip}

    @property
    def tunnel_mtu(self) -> int:
        """The largest packet that goes through the tunnel, in bytes."""
        return tunnel_mtu(self._link.mtu, self._host_ip, encrypted=self._settings.encrypted)

    def address_among_pods(self) -> str:
        """Return an address of this node that other nodes reach as they reach its pods, empty when there is none."""
        addresses, links = self.netlink.addresses(), self.netlink.links()
        return address_among_pods(addresses, links, self._settings.cluster, self._link.name, self._host_ip)

    def apply(self, state: NodeState) -> None:
        """Put ``state`` in place: the path to new gateways before anyone is sent there, addresses that go away only
        after nothing is translated to them, the tunnel only after the rules that judge what comes out of it. Then cut
        the connections that cannot go on, and last tidy up.
        """
        before = self._applied
        mtu = self.tunnel_mtu
        if before is None:
            self._load(state, mtu)
            self._set_up_gateways(state.probed)
        elif before != state:
            if set(state.probed) - set(before.probed):
                both = {h.slot: h for h in (*before.probed, *state.probed)}
                self._set_up_gateways(tuple(both.values()))
            # A packet that was looked up among the flows of the tunnel just before its pod's path became this node must
            # still find the gateway it had.
            moved = replace(state, draining=before.draining & state.draining)
            self._change(moved, mtu)
            if moved.draining != state.draining:
                self._change(state, mtu)
            self._cut(before, state)
            if before.probed != state.probed:
                self._set_up_gateways(state.probed)
        former = self._addresses if before is None else self._addresses | before.lingering
        if over := sorted(former - state.assigned - state.lingering):
            self.cut += cut_egress_ips(over)
        for ip in sorted(self._addresses - state.assigned):
            remove_egress_ip(self.netlink, self._link, ip)
            self._addresses -= {ip}
        if self._encryption is not None:
            self._encryption.follow(state.peers)
        if before != state:
            self.cut += cut_stale(before, state, self._settings.cluster, self._settings.marks)
        self._applied = state

    def lead_to(self, pods: Collection[str], old: int, new: int) -> int:
        """Have the connections of local pods that left by one slot leave by another, which ``apply`` has put in place;
        return how many. Raises EgressRouterError.
        """
        return lead_to(pods, old, new, self._settings.marks)

    def restore(self, records: Collection[bytes], local: Collection[bytes]) -> str:
        """Make the connections that another holder had, see net.translations; ``local`` are the packed addresses of
        this node's pods. Return why the kernel refused some, empty when it refused none. Raises EgressRouterError.
        """
        marks = self._settings.marks
        # As the rules mark them: of this node's pods, and of others' pods.
        own, others = marks.mark_of(OWN_SLOT), marks.value
        return make_translations(records, lambda source: own if source in local else others)[1]

    def open_with(self, ips: Collection[str]) -> list[bytes]:
        """Return the connections that leave with these egress IPs, see net.translations. Raises EgressRouterError."""
        return open_translations([ip_address(ip) for ip in ips])

    def go_on_by(self, records: Collection[bytes], slot: int) -> str:
        """Make connections that were translated here go by the tunnel from now on, untranslated; return as
        ``restore`` does.
        """
        mark = self._settings.marks.mark_of(slot)
        return make_translations(map(untranslated, records), lambda _: mark)[1]

    def learn_key(self, host_ip: str, key: str) -> None:
        """Take in another node's public key of the encrypted tunnel. Raises EgressRouterError."""
        if self._encryption is not None:
            self._encryption.learn(host_ip, key)

    def repair(self, now: float) -> list[str]:
        """Put back what differs from the applied state in rules, routes, tunnel, neighbours and forwarding entries, and
        return it, a line each: ``-`` was missing, ``+`` should not be. Raises EgressRouterError.
        """
        if self._applied is None:
            return []
        lines = self._set_up_gateways(self._applied.probed)
        if lines:
            self._tampering.repaired(lines, now)
            self._log(f"put back what somebody has changed: {summary(lines)}")
        return lines

    def make_way(self) -> tuple[list[str], list[str], list[str]]:
        """Have other programs' chains and the reverse path filter let through what goes by the tunnel; return what was
        done, what keeps all from going through, and what else is in the way, a line each. Raises EgressRouterError.
        """
        done, blocked = accept_tunnel()
        if leaves():
            blocked.append(PROBLEM)
        problems = rules_before(self._settings.marks, self.netlink.rules())
        if any(network.version == 4 for network in self._settings.cluster):
            kernel = self.netlink
            overlays = overlay_links(kernel.routes(), kernel.links(), self._settings.cluster, self._link.name)
            loosened, strict = loosen(kernel, overlays)
            done, problems = done + loosened, problems + strict
        return done, blocked, problems

    def tampering(self, now: float) -> str:
        """Return the problem that somebody undoes again and again what ``repair`` does, empty when nobody does."""
        return self._tampering.problem(now)

    def _set_up_gateways(self, gateways: tuple[Gateway, ...]) -> list[str]:
        """Make tunnel, neighbours, routes and rules those of the gateways; return what differed."""
        encrypted, lines = self._settings.encrypted, []
        if self._encryption is not None:
            lines += self._encryption.ensure(self.netlink)
        port = self._settings.tunnel_port
        tunnel, differed = ensure_tunnel(self.netlink, self._host_ip, self._link, port, encrypted=encrypted)
        self.network.tunnel = tunnel.index
        lines += differed
        lines += set_peers(self.netlink, tunnel, gateways, encrypted=encrypted)
        lines += set_gateways(self.netlink, tunnel, gateways, self._settings.marks)
        return lines

    def _rules_beside(self, state: NodeState) -> None:
        """Add the rules of this agent's marks to those that an earlier one has left: packets are marked the old way
        until the tables are replaced, the new way from then on.
        """
        tunnel = self.netlink.link(TUNNEL)
        if tunnel is not None and tunnel.up:
            set_gateways(self.netlink, tunnel, state.probed, self._settings.marks, only_add=True)

    def tables_differ(self) -> bool:
        """Return whether the nft tables are not as they were applied; the log says how. Costs microseconds while nobody
        has changed any table. Raises EgressRouterError.
        """
        generation = self._nft.generation()
        if generation == self._seen_at:
            return False
        lines = self._nft.difference(self._tables, ABSENT)
        if lines:
            self._log(f"the nft tables are not as they were left: {summary(lines)}")
        else:
            self._seen_at = generation
        return bool(lines)

    def _load(self, state: NodeState, mtu: int) -> None:
        """Make the tables those of ``state``, whatever is there: what an earlier agent has left is compared first and
        keeps what it has counted, what was found changed is replaced at once.
        """
        wanted = self._maker.make(state, mtu)
        if self._tables:
            self._seen_at = self._nft.replace(wanted, ABSENT)
        else:
            # Before and after: a connection that begins meanwhile has the old mark, and a packet of one that has been
            # changed already finds its path in the old tables, too, where agents without a value left them.
            mask, slots = marks_before()
            take_over_marks(mask, slots, self._settings.marks)
            self._rules_beside(state)
            self._seen_at = self._nft.put(wanted, ABSENT).generation
            take_over_marks(mask, slots, self._settings.marks)
        self._tables = wanted

    def _change(self, state: NodeState, mtu: int) -> None:
        """Turn the tables into those of ``state`` without reading them."""
        wanted = self._maker.make(state, mtu)
        try:
            generation = self._nft.change(self._tables, wanted)
        except ToolHangs:
            # Once more would be as long again.
            raise
        except (ToolFailed, StateMismatch) as error:
            self._log(f"the tables are not as they were left; they are replaced ({error})")
            self._load(state, mtu)
            return
        # One more than before: nobody else has changed anything.
        self._seen_at = generation if generation in (self._seen_at, self._seen_at + 1) else -1
        self._tables = wanted

    def _cut(self, before: NodeState, state: NodeState) -> None:
        """Delete the connections that cannot go on: those of dead holders, those that started with another source."""
        names = {h.slot: h.node for h in (*before.probed, *before.gateways)}
        there = {h.slot for h in before.gateways} | before.awaited
        for slot in sorted(there - {h.slot for h in state.gateways} - state.awaited):
            count = cut_slot(slot, self._settings.marks)
            self.cut += count
            self._log(f"cut {count} connections through {names.get(slot, f'slot {slot}')}")


def _gateways(host_ip: str) -> list[str]:
    return [tunnel_gateway(host_ip, 6), tunnel_gateway(host_ip, 4)]
