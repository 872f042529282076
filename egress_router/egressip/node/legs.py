"""Which legs of the way to a gateway and back work: by pings, through the tunnel, and by its agent's word. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from egress_router.net.icmp_probe import REDUCED_RATE_ROUNDS, Answer
from egress_router.net.tunnel_echo import SELDOM, Leg

#: An agent that was asked so many times without a word is told of.
SILENT_QUESTIONS = 6
#: What the leg is called that is an agent's word; the others have the names of ``Leg``.
AGENT = "agent"
#: A leg through the tunnel that missed so many answers in a row does not work, and so one of those that are asked by
#: seldom, and quickly after a miss. It takes probe_misses - 1 more until the holder is down: with 4 % lost each way,
#: where 0.0784 of the answers are missed, nine in a row once in 45 years, though each of the two legs is asked by
#: 99 million times in one.
MISSES, SELDOM_MISSES = 3, 6


@dataclass(slots=True)
class GatewayLegs:
    """The legs of one gateway. A leg through the tunnel counts once it has worked, and the one to the gateway itself
    from the moment its agent says that its node answers there: neither a gateway with an older agent nor a network
    that leads answers to pods elsewhere than those to its own addresses counts as broken.

    ``complete``: in the last round an answer came by each leg that counts.
    """

    missed: dict[Leg, int] = field(default_factory=dict)
    worked: set[Leg] = field(default_factory=set)
    answers_tunnel: bool = False
    silent: int = 0
    complete: bool = True

    def note(self, answer: Answer) -> bool:
        """Take in a round of probes; return whether data could go there and back."""
        self.silent = 0 if answer.pending is not None else self.silent + 1
        self.answers_tunnel |= answer.answers_tunnel
        for leg, heard in {Leg.DIRECT: answer.echo, **answer.legs}.items():
            self.missed[leg] = 0 if heard else self.missed.get(leg, 0) + 1
            if heard:
                self.worked.add(leg)
        counted = {Leg.DIRECT: answer.echo}
        if Leg.TUNNEL in answer.legs and self._counts(Leg.TUNNEL):
            counted[Leg.TUNNEL] = answer.legs[Leg.TUNNEL]
        without = [leg for leg, heard in counted.items() if not heard]
        self.complete = not without
        # Packets get lost: a leg that has worked may miss an answer that came by the other one. A node that is gone
        # gives none at all.
        works = len(without) < len(counted) and not any(self._broken_or_new(leg) for leg in without)
        # They are asked by seldom, and what is lost now and then is no obstacle.
        for leg in SELDOM:
            works &= not (self.is_broken(leg) and self._counts(leg))
        return works

    def forget(self, leg: Leg) -> None:
        """Know nothing of a leg any more, as at the start."""
        self.missed.pop(leg, None)
        self.worked.discard(leg)

    def _counts(self, leg: Leg) -> bool:
        return leg in self.worked or (leg is not Leg.BACK and self.answers_tunnel)

    def _broken_or_new(self, leg: Leg) -> bool:
        return self.is_broken(leg) or leg not in self.worked

    def is_broken(self, leg: Leg) -> bool:
        """Return whether a leg has missed several answers in a row."""
        return self.missed.get(leg, 0) >= (SELDOM_MISSES if leg in SELDOM else MISSES)

    def is_silent(self) -> bool:
        """Return whether the agent does not answer questions, while its node answers pings."""
        return self.silent > SILENT_QUESTIONS * REDUCED_RATE_ROUNDS and not self.missed.get(Leg.DIRECT, 0)

    def up(self) -> dict[str, bool]:
        """Return each leg that is probed, by its name in the metrics, and whether it works."""
        found = {leg.name.lower(): not self.is_broken(leg) for leg in sorted(self.missed)}
        return {**found, AGENT: not self.silent > SILENT_QUESTIONS * REDUCED_RATE_ROUNDS}

    def broken(self) -> str:
        """Return the leg that does not work as ``problem`` and the metrics name it, the first on the way; empty when
        all do.
        """
        if self.is_broken(Leg.DIRECT):
            return Leg.DIRECT.name.lower()
        for leg in (Leg.TUNNEL, Leg.FULL_SIZE):
            if self.is_broken(leg) and self._counts(leg):
                return leg.name.lower()
        if self.is_silent():
            return AGENT
        return Leg.BACK.name.lower() if self.is_broken(Leg.BACK) else ""

    def problem(self, node: str, tunnel_needs: str, probe_port: int, size: int, back: str) -> str:
        """Return what an operator has to know of the way to a gateway that answers pings, empty when all is well.
        ``tunnel_needs`` says what the tunnel needs.
        """
        answers = f"node {node} answers pings, but"
        match self.broken():
            case "tunnel":
                return f"{answers} not through the tunnel: {tunnel_needs}"
            case "full_size":
                return (
                    f"{answers} packets of {size} bytes do not come through the tunnel, smaller ones do: the network "
                    "between the nodes has a smaller MTU than their interfaces"
                )
            case "agent":
                return (
                    f"{answers} its agent says nothing on UDP port {probe_port}: it does not run, or has another port, "
                    "or the port is not open between the nodes"
                )
            case "back":
                return (
                    f"{answers} what it sends to this node's pods may not arrive: answers to {back} do not. Look at "
                    "the routes between pods of both nodes, at rp_filter and at what their firewalls forward"
                )
        return ""
