"""The legs of the way to a node that holds egress IPs, by the controller's probes and the words of agents. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from egress_router.egressip.health import Health
from egress_router.egressip.node_figures import NodeFigures
from egress_router.errors import few

ICMP, TUNNEL, AGENT = "ICMP", "tunnel", "agent"
#: What agents call the legs, see node.legs; full packets and answers to pods are ways through the tunnel, too.
_NAMES = {"direct": ICMP, "tunnel": TUNNEL, "full_size": TUNNEL, "back": TUNNEL, "agent": AGENT}
_TROUBLES = {
    ICMP: "does not answer pings",
    TUNNEL: "is not reached through the tunnel as it should",
    AGENT: "answers pings, and its agent says nothing",
}
#: So many nodes are named.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class LegRow:
    """A leg; ``works`` by what the controller sees, ``missing``: the nodes from which it does not."""

    name: str
    works: bool
    missing: tuple[str, ...] = ()

    @property
    def trouble(self) -> str:
        """What is wrong by the words of other nodes."""
        return f"{_TROUBLES[self.name]} from {self._nodes}"

    @property
    def _nodes(self) -> str:
        return few(self.missing, _NAMED)

    @property
    def fault(self) -> str:
        """What does not work, in words; empty when it does."""
        if not self.works:
            return f"{self.name} fails"
        return f"{self.name} fails from {self._nodes}" if self.missing else ""

    def hidden(self, hide: Callable[[str, str], str]) -> LegRow:
        """Return it with other names of nodes."""
        return replace(self, missing=tuple(hide("node", name) for name in self.missing))


def legs_by_node(
    health: Mapping[str, Health], told: Mapping[str, NodeFigures], silent: Collection[str]
) -> dict[str, tuple[LegRow, ...]]:
    """Return the legs of each node that is probed. A tunnel works when no agent that was heard complains; before one
    was heard nothing is said of tunnels.
    """
    complaints: dict[tuple[str, str], list[str]] = {}
    for teller, figures in told.items():
        # What a node said before it went down tells nothing of now.
        if health.get(teller) is not Health.DOWN:
            for name, leg in figures.broken.items():
                if leg in _NAMES:
                    complaints.setdefault((name, _NAMES[leg]), []).append(teller)
    found = {}
    for name, state in health.items():
        works = {ICMP: state is not Health.DOWN, **({TUNNEL: True} if told else {}), AGENT: name not in silent}
        # Without pings nothing else is worth a word.
        found[name] = tuple(
            LegRow(leg, works[leg], tuple(sorted(complaints.get((name, leg), ()))) if works[ICMP] else ())
            for leg in (works if works[ICMP] else (ICMP,))
        )
    return found


def legs_text(legs: Collection[LegRow]) -> str:
    """Return what works and what does not, in words; a dash where nobody probes."""
    if not legs:
        return "–"
    faults = [fault for leg in legs if (fault := leg.fault)]
    well = [leg.name for leg in legs if not leg.fault]
    works = f"{', '.join(well)} work{'s' * (len(well) == 1)}" if well else ""
    return "; ".join(filter(None, [*faults, works]))
