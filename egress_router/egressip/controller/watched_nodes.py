"""Which nodes the controller takes for offline, from probes. Pure: times are parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egress_router.egressip.controller.hold_down import HoldDown
from egress_router.egressip.health import Health, NodeHealth
from egress_router.egressip.node.state import PROBE_PORT
from egress_router.egressip.node_figures import NodeFigures
from egress_router.net.icmp_probe import FIGURES_SECONDS, REDUCED_RATE_ROUNDS, Answer, DrainPhase

#: How often nodes are probed, and where connections wait for a standby; seconds.
PROBE_INTERVAL, STANDBY_PROBE_INTERVAL = 0.5, 0.1
#: An agent that was asked so many times without a word is told of.
SILENT_QUESTIONS = 10
#: Older figures tell nothing of now; all parts of the longest take two minutes. Seconds.
FIGURES_COUNT = 5 * FIGURES_SECONDS
_DRAINS = {
    DrainPhase.NONE: "is not drained any more",
    DrainPhase.WAITS: "is drained: it keeps what it was given until its connections are over",
    DrainPhase.OVER: "is drained: what it was given goes to other nodes",
}


@dataclass(slots=True)
class Watched:
    """One node: its health, what it is waited for, the rounds since its agent said anything and since it answered a
    ping (one that never did has been silent for long), and what its agent said last about a drain, and of its figures.
    """

    health: NodeHealth
    hold: HoldDown
    unanswered: int
    silent: int = 0
    drain: DrainPhase = DrainPhase.NONE
    figures: NodeFigures = field(default_factory=NodeFigures)


@dataclass(slots=True)
class WatchedNodes:
    """All nodes that are probed. ``current_gateways`` have addresses now: one of them whose kernel answers keeps them
    although its agent says nothing; other nodes get addresses only when their agent works.
    """

    settings: ControllerSettings
    nodes: dict[str, Watched] = field(default_factory=dict)
    current_gateways: Collection[str] = ()
    #: The IP versions in which no other machine answered in the last round.
    cut_off: set[int] = field(default_factory=set)
    #: By IP version, whether each other machine answered when it was asked last.
    _answered: dict[int, dict[str, bool]] = field(default_factory=dict)

    def set_names(self, names: Collection[str], down: Collection[str]) -> None:
        """Watch exactly these nodes; new ones of ``down`` are offline until they show otherwise."""
        self._answered.clear()
        for name in self.nodes.keys() - set(names):
            del self.nodes[name]
        for name in set(names) - self.nodes.keys():
            health = NodeHealth(self.settings.probe_misses, self.settings.probe_returns)
            if name in down:
                health.state = Health.DOWN
            hold = HoldDown(self.settings.hold_down)
            self.nodes[name] = Watched(health, hold, unanswered=self.settings.probe_misses + 1)

    def probed(self, version: int, answers: Mapping[str, Answer], own: Collection[str], now: float) -> list[str]:
        """Take in a round of probes by one IP version, or only those that are late; return messages for the log.
        ``own`` are this machine's names.

        What comes while no other machine has answered its last probe tells about us, not about them: it counts for this
        machine alone.
        """
        others = [name for name in answers if name not in own]
        answered = self._answered.setdefault(version, {})
        answered.update((name, answers[name].echo) for name in others)
        cut_off = bool(answered) and not any(answered.values())
        messages = []
        if cut_off != (version in self.cut_off):
            self.cut_off ^= {version}
            messages.append(
                "no other machine answers; what others hold stays" if cut_off else "other machines answer again"
            )
        for name, answer in answers.items():
            if name in self.nodes and not (cut_off and name in others):
                messages += self._probed_node(name, answer, now)
        return messages

    def _probed_node(self, name: str, answer: Answer, now: float) -> list[str]:
        node = self.nodes[name]
        node.silent = node.silent + 1 if answer.pending is None else 0
        if answer.figures is not None:
            node.figures.take(answer.figures, now)
        messages = []
        # An agent that starts again says nothing for a while; its drain goes on.
        if answer.pending is not None and answer.drain is not node.drain:
            node.drain = answer.drain
            messages.append(f"node {name} {_DRAINS[answer.drain]}")
        return messages + self._health_changed(node, name, answer, now)

    def _health_changed(self, node: Watched, name: str, answer: Answer, now: float) -> list[str]:
        before = node.health.state
        node.unanswered = 0 if answer.echo else node.unanswered + 1
        # Packets get lost. A machine whose agent speaks is there, unless it answers no ping for long.
        there = answer.echo or (answer.pending is not None and node.unanswered <= self.settings.probe_misses)
        if not node.health.probed(echo=there, ready=answer.ready, draining=answer.draining):
            return []
        state = node.health.state
        if before is Health.DOWN and state is Health.UP:
            node.hold.came_back(now)
            return [f"node {name} is back; it is given addresses in {node.hold.wait:g} s"]
        return [f"node {name} is {state}"]

    def offline(self, now: float) -> set[str]:
        """Return the nodes that are given nothing and keep nothing."""
        return {name for name in self.nodes if self._offline(name, now)}

    def _offline(self, name: str, now: float) -> bool:
        node = self.nodes[name]
        if node.health.state is Health.UNKNOWN:
            return name not in self.current_gateways
        return node.health.state is Health.DOWN or node.hold.held(now)

    def drained(self) -> dict[str, DrainPhase]:
        """Return the nodes whose agents say that an operator drains them, and how far that is."""
        return {name: node.drain for name, node in self.nodes.items() if node.drain is not DrainPhase.NONE}

    def down(self, now: float) -> list[str]:
        """Return the nodes that were seen to go and are not back for long enough, sorted."""
        return sorted(
            name for name, node in self.nodes.items() if node.health.state is Health.DOWN or node.hold.held(now)
        )

    def next_release(self, now: float) -> float | None:
        """Return when the next node has been waited for long enough, None when none is waited for."""
        return min((node.hold.until for node in self.nodes.values() if node.hold.held(now)), default=None)

    def figures(self, now: float) -> dict[str, NodeFigures]:
        """Return what agents have told of their nodes of late."""
        told = {name: node.figures for name, node in list(self.nodes.items())}
        return {
            name: figures
            for name, figures in told.items()
            if figures.heard is not None and now - figures.heard < FIGURES_COUNT
        }

    def silent(self) -> list[str]:
        """Return the nodes that answer while their agents do not."""
        most = SILENT_QUESTIONS * REDUCED_RATE_ROUNDS
        return sorted(
            name
            for name, node in list(self.nodes.items())
            if node.silent > most and node.health.state is not Health.DOWN
        )


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Times are seconds. ``witnesses`` are addresses besides the nodes' whose answers show that the controller itself
    is connected. A node that came back is given nothing for ``hold_down`` seconds, longer when it flaps. ``standby``:
    each address is given a standby, which takes it over.
    """

    witnesses: tuple[str, ...] = ()
    probe_interval: float = PROBE_INTERVAL
    probe_misses: int = 3
    probe_returns: int = 3
    hold_down: float = 10.0
    probe_port: int = PROBE_PORT
    keys: Path | None = None
    standby: bool = False
