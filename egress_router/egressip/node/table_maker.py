"""A node's tables, made again and again: what a change of a few pods costs does not depend on how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from egress_router.egressip.node.nft_rules import Elements, assembled, pods_elements, small_elements
from egress_router.egressip.node.state import NodeSettings, NodeState
from egress_router.net.nft.values import NftTable


class TableMaker:
    """Makes what ``node_tables`` makes, but for the order of elements, which says nothing. Sets in which nothing has
    changed are the same objects as the last time, so that a comparison sees it at once.
    """

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._translations: Mapping[str, str] = {}
        self._egress: frozenset[str] = frozenset()
        self._of_pods: Elements = pods_elements({}, ())

    def make(self, state: NodeState, mtu: int) -> tuple[NftTable, NftTable]:
        """Return the tables of a state; ``mtu`` is that of the tunnel."""
        self._follow(state)
        return assembled(self._settings, state, mtu, {**small_elements(state, self._settings.marks), **self._of_pods})

    def _follow(self, state: NodeState) -> None:
        """Bring the sets that hold all pods up to date."""
        old, new = self._translations, state.translations
        differing = sorted({pod for pod, _ in old.items() ^ new.items()})
        self._change(
            pods_elements({pod: old[pod] for pod in differing if pod in old}, self._egress - state.egress),
            pods_elements({pod: new[pod] for pod in differing if pod in new}, state.egress - self._egress),
        )
        self._translations, self._egress = new, state.egress

    def _change(self, removed: Elements, added: Elements) -> None:
        for name, present in self._of_pods.items():
            if removed[name] or added[name]:
                self._of_pods[name] = _changed(present, removed[name], added[name])


def _changed(
    present: Mapping[str, str | None], removed: Iterable[str], added: Mapping[str, str | None]
) -> dict[str, str | None]:
    made = dict(present)
    for key in removed:
        del made[key]
    made.update(added)
    return made
