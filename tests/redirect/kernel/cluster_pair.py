"""A pair that elects between its pods, and that network cut."""

from __future__ import annotations

from pathlib import Path

from lab import Lab
from lab.addressing import PODS
from tests.redirect.kernel.pair import RouterPair

PORT = 9913


class ClusterPair(RouterPair):
    """The routers know each other by their pods' addresses of one ``family``."""

    def __init__(self, lab: Lab, backend: str, directory: Path, run_directory: Path, family: int, **env: str) -> None:
        self.family = family
        # Pods on links of their own have a default route alone. They need not compare their lists to elect.
        cluster = " ".join(map(str, PODS.values())) if lab.shape == "bridge" else ""
        more = {"EGRESS_CLUSTER_CIDRS": cluster, "EGRESS_PAIR_NETWORK": "cluster", **env}
        super().__init__(lab, backend, directory, run_directory, **more)
        peers = " ".join(str(router.host.addresses[family]) for router in self.routers)
        for router in self.routers:
            router.env["EGRESS_PAIR_PEERS"] = peers

    def cut_cluster(self) -> None:
        """Drop what the routers send each other between their pods, as a NetworkPolicy does that does not know them."""
        drops = f"chain early {{\ntype filter hook prerouting priority -300\nudp dport {PORT} drop\n}}\n"
        for router in self.routers:
            router.host.nft(f"table inet cut\ndelete table inet cut\ntable inet cut {{\n{drops}}}\n")

    def mend_cluster(self) -> None:
        """Let it pass again."""
        for router in self.routers:
            router.host.nft("table inet cut\ndelete table inet cut\n")
