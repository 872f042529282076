"""What is read off other programs' output."""

from __future__ import annotations

import pytest

from bench.load import wrk_figures
from bench.switch_over import figures

WRK = """Running 1s test @ http://203.0.113.25:80/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.05ms    2.65ms  31.73ms   88.61%
    Req/Sec     4.20k   341.07     4.60k    72.73%
  Latency Distribution
     50%    3.40ms
     75%    4.72ms
     90%  900.00us
     99%    1.20s
  4631 requests in 1.10s, 470.34KB read
Requests/sec:   4207.41
Transfer/sec:    427.32KB
"""


def test_wrk() -> None:
    assert wrk_figures(WRK) == {"rate": 4207.41, "requests": 4631, "p50": 0.0034, "p99": 1.2, "failed": 0}
    errors = "  Socket errors: connect 1, read 2, write 0, timeout 4\nRequests/sec"
    assert wrk_figures(WRK.replace("Requests/sec", errors))["failed"] == 7


@pytest.mark.parametrize(
    "output", ["", WRK.replace("Requests/sec", "  Non-2xx or 3xx responses: 9\nRequests/sec"), WRK.replace("4631", "0")]
)
def test_wrk_without_answers(output: str) -> None:
    with pytest.raises(RuntimeError, match="did not get its answers"):
        wrk_figures(output)


def test_a_switch_over() -> None:
    # A datagram each second, answered after a quarter; the address moves with the fifth, two are lost.
    seen = [(float(at), at + 0.25, "one") for at in range(3)]
    lost = [(3.0, None, ""), (4.0, None, "")]
    after = [(5.0, 5.25, "two"), (6.0, 6.25, "two"), (7.0, 7.25, "two")]
    assert figures([*seen, *lost, *after], 2.5, "one") == {"moved": 2.75, "silent": 3.0, "lost": 2.0}


def test_a_flow_that_never_comes_back_is_silent_to_the_end() -> None:
    found = figures([(0.0, 0.1, "one"), (1.0, None, ""), (9.0, None, "")], 0.5, "one")
    assert found == {"moved": 8.5, "silent": 8.9, "lost": 2.0}


def test_nothing_before_the_change_proves_nothing() -> None:
    with pytest.raises(ValueError, match="nothing was answered before"):
        figures([(1.0, 1.1, "two")], 0.5, "one")
