"""Run the agent with marks as they were before they had a value and were taken off: the control of tests about marks.

``python -m tests.support.former_marks VERB…``
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from egress_router.cli import node
from egress_router.egressip.node import nft_rules
from egress_router.egressip.node.marks import Marks
from egress_router.egressip.node.state import NodeSettings
from egress_router.net.nft.values import NftChain


def use_them() -> None:
    """Have the agent mark so, and leave its marks on."""
    sound = nft_rules._chains

    def chains(settings: NodeSettings, mtu: int) -> Iterator[NftChain]:
        off = f"meta mark set meta mark & 0x{settings.marks.keep:08x}"
        for chain in sound(settings, mtu):
            if chain.name in ("passed_on", "known_passed_on"):
                yield replace(chain, rules=tuple(rule for rule in chain.rules if not rule.endswith(off)))
            elif chain.name in ("select_path", "known_connection"):
                yield replace(chain, rules=tuple(rule.replace(f"{off} ", "") for rule in chain.rules if rule != off))
            else:
                yield chain

    nft_rules._chains = chains
    vars(node)["parse_marks"] = lambda _, slots: Marks(0, 0, int(slots, 0))


if __name__ == "__main__":
    from egress_router.cli.main import main

    use_them()
    main(sys.argv[1:])
