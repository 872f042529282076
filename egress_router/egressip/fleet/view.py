"""The fleet as values: who holds which egress IP, what is wrong, what happened. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from egress_router.daemon.page.level import Level
from egress_router.daemon.page.numbers import Numbers
from egress_router.daemon.page.words import fitting
from egress_router.egressip.api import ClusterState, Decision, Disposition, NamespaceDecision, address_key, address_text
from egress_router.egressip.fleet.history import NOBODY, Change, History, Kind, conflicts_of
from egress_router.egressip.fleet.legs import LegRow, legs_by_node
from egress_router.egressip.health import Health
from egress_router.egressip.node_figures import NEARLY_ALL, PORTS, NodeFigures


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong, in words, and the object to look at (``kind/name``)."""

    level: Level
    text: str
    where: str


@dataclass(frozen=True, slots=True)
class AddressRow:
    """An egress IP: who lists it and who holds it. ``since`` is when that changed (seconds since the epoch), None
    where it did not since the process looks. ``legs``: of the ways to its node; ``connections`` that leave with it, and
    ``ports``, the most source ports in use towards one remote: by its node's agent, None where that has not said.
    """

    ip: str
    level: Level
    state: str
    node: str
    how: str
    since: float | None
    namespaces: tuple[str, ...]
    pods: int
    legs: tuple[LegRow, ...] = ()
    connections: int | None = None
    ports: int | None = None
    #: The node that takes the address over with its connections; empty where none is to.
    standby: str = ""

    @property
    def share(self) -> str:
        """The share of the source ports in use, in words."""
        if not self.ports:
            return "–" if self.ports is None else "0 %"
        share = 100 * self.ports / PORTS
        return f"{share:.0f} %" if share >= 1 else "under 1 %"


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node. ``health`` is None where nobody probes. ``capacity``: addresses that may be assigned automatically.
    ``version``: of its agent, empty when that has not said. ``drops``: packets by reason, most first, since the node
    began to count them. ``untold``: addresses of which its agent tells nothing, since it has very many.
    """

    name: str
    host_ip: str
    level: Level
    health: Health | None
    since: float | None
    addresses: tuple[str, ...]
    automatic: int
    capacity: int | None
    pods: int
    problems: tuple[str, ...]
    legs: tuple[LegRow, ...] = ()
    version: str = ""
    drops: tuple[tuple[str, int], ...] = ()
    untold: int = 0

    @property
    def state(self) -> str:
        """The health in words."""
        return "not probed" if self.health is None else self.health.value


@dataclass(frozen=True, slots=True)
class NamespaceRow:
    """A namespace that lists egress IPs. ``ways`` are (egress IP, node)."""

    name: str
    level: Level
    state: str
    ways: tuple[tuple[str, str], ...]
    pods: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that the page shows, as of ``made`` (seconds since the epoch). Rows with trouble come first."""

    made: float
    probed: bool
    troubles: tuple[Trouble, ...]
    addresses: tuple[AddressRow, ...]
    nodes: tuple[NodeRow, ...]
    namespaces: tuple[NamespaceRow, ...]
    normal_namespaces: int
    pods: int
    pods_cut_off: int
    changes: tuple[Change, ...]
    changes_forgotten: int
    #: How many agents have each version, most first.
    versions: tuple[tuple[str, int], ...] = ()

    @property
    def level(self) -> Level:
        """The worst of all."""
        return min((trouble.level for trouble in self.troubles), default=Level.FINE)


def fleet_view(
    state: ClusterState,
    decision: Decision,
    health: Mapping[str, Health],
    history: History,
    now: float,
    problems: Sequence[str] = (),
    *,
    probed: bool = True,
    figures: Mapping[str, NodeFigures] | None = None,
    silent: Collection[str] = (),
) -> Fleet:
    """Return the fleet at ``now`` (seconds since the epoch). ``health`` has the nodes that are ``probed``, or that are
    taken for down; ``problems`` are sentences about the process that looks. ``figures``: what agents have told;
    ``silent``: nodes that answer while their agents do not.
    """
    told = figures or {}
    # Who only reads the objects has those that are written down.
    standbys = decision.standbys or state.standbys
    legs = legs_by_node(health, told, silent) if probed else {}
    pods_of = Counter(pod.namespace for pod in state.pods.values())
    pods_on = Counter(pod.node for pod in state.pods.values())
    namespaces = [
        _namespace(name, verdict, pods_of[name])
        for name, verdict in decision.namespaces.items()
        if verdict.disposition is not Disposition.NORMAL
    ]
    nodes = [
        replace(
            _node(name, state, decision, health, history, pods_on[name]),
            legs=legs.get(name, ()),
            version=told[name].version if name in told else "",
            drops=tuple(Counter(told[name].drops).most_common()) if name in told else (),
            untold=told[name].untold if name in told else 0,
        )
        for name in decision.nodes
    ]
    addresses = [
        replace(_with_figures(row, legs, told), standby=standbys.get(row.ip, ""))
        for row in _addresses(state, decision, health, history, pods_of)
    ]
    cut_off = sum(row.pods for row in namespaces if row.level is Level.CUT_OFF)
    return Fleet(
        made=now,
        probed=probed,
        troubles=tuple(
            sorted(_troubles(namespaces, nodes, addresses, problems), key=lambda item: (item.level, item.where))
        ),
        addresses=tuple(sorted(addresses, key=lambda row: (row.level, address_key(row.ip) or 0))),
        nodes=tuple(sorted(nodes, key=lambda row: (row.level, row.name))),
        namespaces=tuple(sorted(namespaces, key=lambda row: (row.level, row.name))),
        normal_namespaces=len(decision.namespaces) - len(namespaces),
        pods=len(state.pods),
        pods_cut_off=cut_off,
        changes=tuple(history.changes(now)),
        changes_forgotten=history.forgotten,
        versions=tuple(Counter(row.version for row in nodes if row.version).most_common()),
    )


def matching(fleet: Fleet, query: str) -> Fleet:
    """Return only the rows in whose names, addresses or states each word of ``query`` occurs, whatever its case."""
    fits = fitting(query)
    return replace(
        fleet,
        addresses=tuple(
            row
            for row in fleet.addresses
            if fits(row.ip, row.node, row.standby, row.state, row.level.word, *row.namespaces)
        ),
        nodes=tuple(
            row for row in fleet.nodes if fits(row.name, row.host_ip, row.state, row.level.word, *row.addresses)
        ),
        namespaces=tuple(
            row
            for row in fleet.namespaces
            if fits(row.name, row.state, row.level.word, *(part for way in row.ways for part in way))
        ),
        changes=tuple(
            item for item in fleet.changes if fits(item.subject, item.before, item.after, item.kind, item.cause)
        ),
    )


def redacted(fleet: Fleet) -> Fleet:
    """Return the fleet without a name or address that tells about the network: each becomes a number, the same one
    everywhere. Words about objects, in which anything may stand, are left out.
    """
    hide = Numbers().of

    def hide_change(item: Change) -> Change:
        # By what stands where, not by what is known: a node may be gone, and a conflict's words have namespaces.
        if item.kind is Kind.NODE:
            return replace(item, subject=hide("node", item.subject))
        subject = hide("ip", item.subject)
        if item.kind is Kind.CONFLICT:
            return replace(item, subject=subject, before="left out" if item.before else "")
        before, after = (text if text == NOBODY else hide("node", text) for text in (item.before, item.after))
        return replace(item, subject=subject, before=before, after=after)

    def hide_where(where: str) -> str:
        kind, _, name = where.partition("/")
        what = {"NetNamespace": "namespace", "HostSubnet": "node"}.get(kind, kind)
        return f"{kind}/{hide(what, name)}" if name else where

    return replace(
        fleet,
        troubles=tuple(
            replace(item, text=f"{item.level.word}: see {hide_where(item.where)}", where=hide_where(item.where))
            for item in fleet.troubles
        ),
        addresses=tuple(
            replace(
                row,
                ip=hide("ip", row.ip),
                state=row.state.partition(":")[0],
                node=hide("node", row.node) if row.node else "",
                standby=hide("node", row.standby) if row.standby else "",
                namespaces=tuple(hide("namespace", name) for name in row.namespaces),
                legs=tuple(leg.hidden(hide) for leg in row.legs),
            )
            for row in fleet.addresses
        ),
        nodes=tuple(
            replace(
                row,
                name=hide("node", row.name),
                host_ip="",
                addresses=tuple(hide("ip", ip) for ip in row.addresses),
                problems=tuple("left out" for _ in row.problems),
                legs=tuple(leg.hidden(hide) for leg in row.legs),
            )
            for row in fleet.nodes
        ),
        namespaces=tuple(
            replace(
                row,
                name=hide("namespace", row.name),
                ways=tuple((hide("ip", ip), hide("node", node)) for ip, node in row.ways),
                reasons=tuple("left out" for _ in row.reasons),
            )
            for row in fleet.namespaces
        ),
        changes=tuple(replace(hide_change(item), cause="left out" if item.cause else "") for item in fleet.changes),
    )


def _namespace(name: str, verdict: NamespaceDecision, pods: int) -> NamespaceRow:
    dropped = verdict.disposition is Disposition.DROP and not verdict.node_ip
    level = Level.CUT_OFF if dropped else Level.DEGRADED if verdict.reasons else Level.FINE
    state = "its traffic is dropped" if dropped else "leaves; an address is missing" if verdict.reasons else "leaves"
    if verdict.disposition is Disposition.DROP and verdict.node_ip:
        state = "leaves with the addresses of its pods' nodes; no egress IP is usable"
    return NamespaceRow(name, level, state, tuple((via.ip, via.node) for via in verdict.via), pods, verdict.reasons)


def _node(
    name: str,
    state: ClusterState,
    decision: Decision,
    health: Mapping[str, Health],
    history: History,
    pods: int,
) -> NodeRow:
    verdict, node = decision.nodes[name], state.nodes.get(name)
    seen = health.get(name)
    holds = bool(verdict.claims)
    if seen is Health.DOWN:
        level = Level.CUT_OFF if holds else Level.DEGRADED
    else:
        level = Level.DEGRADED if verdict.problems or seen is Health.DRAINING else Level.FINE
    return NodeRow(
        name=name,
        host_ip="" if node is None else node.host_ip,
        level=level,
        health=seen,
        since=history.since(name),
        addresses=verdict.claims,
        automatic=len(decision.assignment.get(name, ())),
        capacity=None if node is None else node.capacity,
        pods=pods,
        problems=verdict.problems,
    )


def _addresses(
    state: ClusterState,
    decision: Decision,
    health: Mapping[str, Health],
    history: History,
    pods_of: Mapping[str, int],
) -> list[AddressRow]:
    listed_by: dict[str, list[str]] = {}
    for namespace in state.namespaces.values():
        for text in namespace.egress_ips:
            key = address_key(text)
            if key is not None:
                listed_by.setdefault(address_text(key), []).append(namespace.name)
    holder = {via.ip: via.node for verdict in decision.namespaces.values() for via in verdict.via}
    claimed = {ip: name for name, verdict in decision.nodes.items() for ip in verdict.claims}
    automatic = {ip for given in decision.assignment.values() for ip in given}
    conflicts = conflicts_of(decision)
    rows = []
    for ip, names in listed_by.items():
        node = holder.get(ip) or claimed.get(ip, "")
        if ip in conflicts:
            level, words = Level.CUT_OFF, "nobody may use it: " + conflicts[ip]
        elif ip in holder:
            level, words = Level.FINE, "in use"
        elif node and health.get(node) is Health.DOWN:
            level, words = Level.DEGRADED, "its node is down"
        elif node:
            level, words = Level.DEGRADED, "held, not used"
        else:
            level, words = Level.DEGRADED, "no node has it"
        how = "" if not node else "automatic" if ip in automatic else "by hand"
        pods = sum(pods_of.get(name, 0) for name in names)
        rows.append(AddressRow(ip, level, words, node, how, history.since(ip), tuple(sorted(set(names))), pods))
    return rows


def _with_figures(
    row: AddressRow, legs: Mapping[str, tuple[LegRow, ...]], told: Mapping[str, NodeFigures]
) -> AddressRow:
    figures = told.get(row.node)
    known = figures is not None and row.ip in figures.connections
    return replace(
        row,
        legs=legs.get(row.node, ()),
        connections=figures.connections[row.ip] if figures is not None and known else None,
        ports=figures.ports.get(row.ip, 0) if figures is not None and known else None,
    )


def _troubles(
    namespaces: Sequence[NamespaceRow],
    nodes: Sequence[NodeRow],
    addresses: Sequence[AddressRow],
    problems: Sequence[str],
) -> list[Trouble]:
    found = [Trouble(Level.DEGRADED, text, "") for text in problems]
    for row in namespaces:
        where = f"NetNamespace/{row.name}"
        if row.level is Level.CUT_OFF:
            pods = "1 pod is" if row.pods == 1 else f"{row.pods} pods are"
            found.append(Trouble(row.level, f"namespace {row.name}: {pods} cut off from the outside", where))
        found += [Trouble(row.level, reason, where) for reason in row.reasons]
    for node in nodes:
        where = f"HostSubnet/{node.name}"
        if node.health is Health.DOWN:
            found.append(Trouble(node.level, f"node {node.name} is down", where))
        found += [Trouble(Level.DEGRADED, problem, where) for problem in node.problems]
        if node.untold:
            text = f"node {node.name} has so many egress IPs that its agent tells no figures of {node.untold} of them"
            found.append(Trouble(Level.DEGRADED, f"{text}: those with the fewest source ports in use", where))
        found += [Trouble(Level.DEGRADED, f"node {node.name} {leg.trouble}", where) for leg in node.legs if leg.missing]
    found += [
        Trouble(
            Level.DEGRADED,
            f"egress IP {address.ip} uses {address.share} of its source ports towards one remote; when they are used "
            "up, connections there fail",
            f"HostSubnet/{address.node}",
        )
        for address in addresses
        if address.ports is not None and address.ports > NEARLY_ALL * PORTS
    ]
    return found
