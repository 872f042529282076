"""Probes of many nodes from one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from textwrap import dedent

import pytest

from lab import Lab

pytestmark = pytest.mark.root

SCRIPT = """
    import threading, time
    from egress_router.net.icmp_probe import Prober

    rounds = []
    prober = Prober("0.0.0.0", 4791, 0.5, lambda answers: rounds.append(sum(a.echo for a in answers.values())))
    names = {f"n{n}": f"127.1.{n >> 8}.{n & 255}" for n in range(1, 1001)}
    prober.set_targets(names, frozenset(), frozenset())
    threading.Thread(target=prober.run).start()
    time.sleep(2.8)
    prober.stop()
    print(max(rounds))
"""


def test_the_answers_of_a_thousand_nodes_all_count(make_lab: Callable[..., Lab]) -> None:
    """They come in a burst, which the default buffer of a socket does not hold."""
    node = make_lab().nodes[0]
    assert node.run([sys.executable, "-c", dedent(SCRIPT)], timeout=30).stdout.split() == ["1000"]
