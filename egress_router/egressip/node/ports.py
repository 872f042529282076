"""What the agent of a node needs from the kernel, the network and the people who run it: protocols that fakes obey."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from egress_router.egressip.node.repair import Heard
from egress_router.egressip.node.replication import Figures
from egress_router.egressip.node.state import NodeState
from egress_router.net.rtnetlink.values import LinkAddress, Observed
from egress_router.net.tunnel_echo import TunnelWay


class Dataplane(Protocol):
    """The kernel of one node. What it raises is EgressRouterError; then the next ``apply`` after ``forget`` puts
    everything in place anew.
    """

    @property
    def applied(self) -> NodeState | None:
        """The state that the kernel has, None before the first ``apply`` and after ``forget``."""

    @property
    def cut(self) -> int:
        """Connections deleted since the start."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when somebody may have changed what was applied."""

    def tampered(self) -> bool:
        """Take in what the descriptor tells; return whether somebody else changed our tables, or may have."""

    def others_changed(self) -> bool:
        """Return whether other programs have changed their tables since this was asked last, see ``tampered``."""

    def unheard_changed(self) -> bool:
        """Return whether tables of other programs that the kernel tells nobody of have changed since this was asked
        last.
        """

    @property
    def tunnel_mtu(self) -> int:
        """The largest packet that goes through the tunnel, in bytes."""

    def address_among_pods(self) -> str:
        """Return an address of this node that other nodes reach as they reach its pods, empty when there is none."""

    def make_way(self) -> tuple[list[str], list[str], list[str]]:
        """Have other programs' rules and the reverse path filter let through what goes by the tunnel; return what was
        done, what keeps all from going through, and what else is in the way, a line each.
        """

    def learn_key(self, host_ip: str, key: str) -> None:
        """Take in another node's public key of the encrypted tunnel."""

    def network_fileno(self) -> int:
        """Return a descriptor that is readable when rules, routes, tunnel or addresses may have changed."""

    def network_heard(self) -> Heard:
        """Take in what that descriptor tells."""

    def repair(self, now: float) -> list[str]:
        """Put back what differs from the applied state in rules, routes, tunnel, neighbours and forwarding entries;
        return it, a line each.
        """

    def tampering(self, now: float) -> str:
        """Return the problem that somebody undoes again and again what ``repair`` does, empty when nobody does."""

    def addresses_on_link(self) -> set[str]:
        """Return the addresses on the outside interface."""

    def present(self) -> bool:
        """Return whether our tables are there, and the guard of the boot is not."""

    def adopt(self) -> frozenset[str]:
        """Take over the egress IPs that an earlier agent has put on the interface, and return them."""

    def slots_before(self, nodes: Mapping[str, str]) -> dict[str, int]:
        """Return the slots that an earlier agent gave to nodes (name → hostIP)."""

    def gateways_before(self) -> tuple[Collection[int], Collection[int]]:
        """Return the slots of the gateways that an earlier agent used, and of those whose connections went on."""

    def addresses(self) -> Collection[LinkAddress]:
        """Return the addresses of the node; costs a fraction of ``observed``."""

    def observed(self) -> Observed:
        """Return the links, addresses, routes and rules of the node."""

    def add(self, ip: str) -> None:
        """Put an egress IP on the interface."""

    def apply(self, state: NodeState) -> None:
        """Put ``state`` in place, in an order in which no packet leaves with a wrong source."""

    def lead_to(self, pods: Collection[str], old: int, new: int) -> int:
        """Have the connections of local pods that left by one slot leave by another; return how many."""

    def open_with(self, ips: Collection[str]) -> list[bytes]:
        """Return the connections that leave with these egress IPs."""

    def go_on_by(self, records: Collection[bytes], slot: int) -> str:
        """Make connections that were translated here go by the tunnel; return as ``restore`` does."""

    def restore(self, records: Collection[bytes], local: Collection[bytes]) -> str:
        """Make the connections that another holder had; return why some were refused, empty when none was."""

    def forget(self) -> None:
        """Trust nothing: replace everything at the next ``apply``."""

    def dropped_packets(self) -> dict[str, int]:
        """Return the packets dropped so far, by reason."""


class Prober(Protocol):
    """Probes other nodes and answers their agents; see icmp_probe.Prober."""

    def set_targets(
        self,
        targets: Mapping[str, str],
        uses: frozenset[str],
        reduced_rate: frozenset[str],
        pods: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Probe these nodes from the next round on."""

    def set_tunnel(self, way: TunnelWay | None) -> None:
        """Probe the nodes that have a mark through the tunnel as well; None: do not."""

    def tell(self, starts: Mapping[str, Mapping[str, str]]) -> None:
        """Tell agents (by address) at once of pods of this node that wait to start, again and again until they say that
        they translate them, or this is called again.
        """

    def have_asked(self, addresses: Collection[str]) -> None:
        """Have these nodes ask at once about the pods that they are to ask this one about."""

    def set_peers(self, addresses: Collection[str]) -> None:
        """Believe only these nodes that they send traffic here."""

    def users(self, within: float) -> list[str]:
        """Return the addresses of the nodes that said within so many seconds that they send traffic here."""

    def listening(self, within: float) -> float:
        """Return after how many seconds every node that sends traffic here has asked: ``within``, or longer."""

    def round_seconds(self) -> float:
        """Return how long a round of probes takes."""

    def run(self, beat: Callable[[], None] = ...) -> None:
        """Probe until ``stop``, in a thread of its own."""

    def stop(self) -> None:
        """End the probing."""


class Claims(Protocol):
    """Checks addresses for duplicates and announces them; see claims.Claimer."""

    #: What may be announced now.
    answered: frozenset[str]

    def check(self, texts: Iterable[str], hurried: Collection[str] = ()) -> None:
        """Start checking the addresses that are not being checked already; the ``hurried`` ones faster."""

    def look_again(self, texts: Collection[str]) -> None:
        """Ask at the usual pace about addresses that were taken in a hurry."""

    def announce(self, texts: Iterable[str]) -> None:
        """Tell everybody on the link that the addresses are here."""


class Standby(Protocol):
    """Keeps other holders' connections, and has others keep this one's; see replication.Replication."""

    @property
    def idle(self) -> bool:
        """Whether nothing is to be sent or accepted."""

    @property
    def figures(self) -> Figures:
        """What has happened."""

    def follow(self, to: Mapping[str, str], come_from: Mapping[str, str], keep: Collection[str] = ()) -> None:
        """Send the connections of egress IPs to nodes, accept those of others, keep what is there of further ones."""

    def kept(self, ip: str) -> frozenset[bytes]:
        """Return the connections that are kept of an egress IP."""

    def run(self, beat: Callable[[], None] = ...) -> None:
        """Work until ``stop``, in a thread of its own."""

    def stop(self) -> None:
        """End ``run``."""


class ControlQuestions(Protocol):
    """The control socket; see control.ControlSocket."""

    def fileno(self) -> int:
        """Return the descriptor, readable when somebody asks."""
