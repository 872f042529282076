"""What Squid 5.7's cache manager says, as it was seen."""

from __future__ import annotations

import pytest

from egress_router.http_proxy.squid.access_log import MAX_DESTINATIONS, OTHER, RequestCounts, RequestStats
from egress_router.http_proxy.squid.errors import failure
from egress_router.http_proxy.squid.log_line import RawLine
from egress_router.http_proxy.squid.manager import read_dns, read_tunnels

IDNS = """\
Internal DNS Statistics:

The Queue:
                       DELAY SINCE
  ID   SIZE SENDS FIRST SEND LAST SEND M FQDN
------ ---- ----- ---------- --------- - ----
0xdbfa   38     1      3.041     3.041   nonexist.example.com

DNS jumbo-grams: not working

Nameservers:
IP ADDRESS                                     # QUERIES # REPLIES Type
---------------------------------------------- --------- --------- --------
192.0.2.53                                            22        20 recurse
2001:db8:2::53                                         2         0 recurse

Rcode Matrix:
RCODE ATTEMPT1 ATTEMPT2 ATTEMPT3 PROBLEM
    0        9        0        0 : Success
    2        3        2        1 : DNS Server Failure
    3        4        0        0 : Non-Existent Domain
   16        0        1        0 : Bad OPT Version or TSIG Signature Failure
"""
TUNNELS = (
    "cbdata TunnelStateData (13)\t  496\t \t \t \t \t \t \t \t 2\t 1\t 1\t 0.00\t 0.142\t 7\t 4\t 8\t 0.00\t 33.333\t"
    " 2\t 1\t 1\t 0\t 0.000\t 0.000\t 0.000"
)


def test_the_resolver() -> None:
    dns = read_dns(IDNS)
    assert (dns.queries, dns.replies) == (24, 20)
    codes = {code: count for code, count in dns.rcodes.items() if count}
    assert codes == {"noerror": 9, "servfail": 6, "nxdomain": 4, "other": 1}
    assert read_dns("").queries == 0


def test_tunnels() -> None:
    assert read_tunnels(f"Pool\t Obj Size\n{TUNNELS}\nother\t 1\n") == 7
    assert read_tunnels("Pool\t Obj Size\n") == 0


def test_the_number_of_destinations_is_bounded() -> None:
    stats = RequestStats()
    for number in range(MAX_DESTINATIONS + 5):
        counts = RequestCounts(sent=2)
        counts.destinations[f"{number}.example"] += 1
        stats.add(counts)
    found = stats.read()
    assert len(found.destinations) == MAX_DESTINATIONS + 1
    assert (found.destinations["0.example"], found.destinations[OTHER]) == (1, 5)
    assert found.sent == 2 * (MAX_DESTINATIONS + 5)


FIELDS = dict.fromkeys(RawLine._fields, "-") | {
    "status": "503",
    "size": "0",
    "duration": "20",
    "server": "203.0.113.25",
}


@pytest.mark.parametrize(
    ("fields", "word", "detail"),
    [
        ({"error": "ERR_CONNECT_FAIL", "detail": "errno=111"}, "connect", "refused"),
        ({"error": "ERR_CONNECT_FAIL", "detail": "errno=113"}, "connect", "unreachable"),
        ({"error": "ERR_CONNECT_FAIL", "detail": "errno=110"}, "connect", "timed out"),
        ({"error": "ERR_CONNECT_FAIL", "detail": "WITH_SERVER", "duration": "10004"}, "connect", "timed out"),
        ({"error": "ERR_CONNECT_FAIL", "detail": "WITH_SERVER"}, "connect", "refused or unreachable"),
        ({"error": "ERR_READ_ERROR", "server": "-"}, "dns", ""),
        ({"error": "503:ERR_DNS_FAIL", "server": "-", "failed": "dns"}, "dns", ""),
        ({"error": "ERR_READ_ERROR"}, "server", "the connection was cut"),
        ({"error": "ERR_SOMETHING_NEW"}, "other", "ERR_SOMETHING_NEW"),
        ({"error": "ERR_CLIENT_GONE", "status": "0"}, "client", "the client left"),
        ({"status": "431", "server": "-"}, "too_large", "the request's header is too large"),
    ],
)
def test_why_a_request_failed(fields: dict[str, str], word: str, detail: str) -> None:
    assert failure(RawLine(**FIELDS | fields)) == (word, detail)


def test_what_is_no_failure() -> None:
    assert failure(RawLine(**FIELDS)) is None
    assert failure(RawLine(**FIELDS | {"error": "ERR_ACCESS_DENIED"})) is None
