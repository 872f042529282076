"""The figures of the HTTP proxy for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from egress_router.daemon.engine import Counters
from egress_router.daemon.exposition import Collector, CounterMetricFamily, GaugeMetricFamily, Metric
from egress_router.daemon.proxy_health import ProxyHealth, by_label, supervised
from egress_router.daemon.sockets import open_by_port
from egress_router.errors import TryAgainError
from egress_router.http_proxy.squid.engine import SquidEngine
from egress_router.http_proxy.squid.errors import WORDS

#: Named from the start, so that a rate has a first value.
DECISIONS = ("allow", "deny", "invalid")


class HttpProxyCollector(Collector):
    """Reads the stats of the access log and the kernel's sockets, and asks Squid; while that does not answer, its own
    figures are absent.
    """

    def __init__(self, engine: SquidEngine, counters: Counters, health: ProxyHealth) -> None:
        self._engine = engine
        self._counters = counters
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Yield every figure."""
        yield from self._requests()
        port = self._engine.settings.port
        yield GaugeMetricFamily(
            "egress_router_http_client_connections", "Open connections of clients.", open_by_port()[port]
        )
        yield from self._squid()
        lost = {"supervisor": self._engine.output.lost if self._engine.output else 0}
        yield from supervised(self._counters, self._health, lost, mode="http-proxy")

    def _requests(self) -> Iterator[Metric]:
        counts = self._engine.stats.read()
        decisions = {word: counts.decisions[word] for word in DECISIONS}
        text = "Requests that have ended, by decision; invalid ones could not be judged."
        yield by_label(CounterMetricFamily, "egress_router_http_requests", text, "decision", decisions)
        errors = {word: counts.errors[word] for word in WORDS}
        text = "Requests that were not refused and failed, by what failed."
        yield by_label(CounterMetricFamily, "egress_router_http_request_errors", text, "reason", errors)
        yield CounterMetricFamily("egress_router_http_sent_bytes", "Bytes sent to clients.", counts.sent)
        text = "Requests that a line of the policy decided."
        name = "egress_router_destination_requests"
        yield by_label(CounterMetricFamily, name, text, "destination", counts.destinations)

    def _squid(self) -> Iterator[Metric]:
        managers = self._engine.managers()
        yield GaugeMetricFamily("egress_router_http_workers", "Squids that get new connections.", len(managers))
        try:
            tunnels = sum(manager.tunnels() for manager in managers)
            traffic = [manager.dns() for manager in managers]
        except TryAgainError:
            return
        yield GaugeMetricFamily("egress_router_http_tunnels", "Open tunnels (CONNECT).", tunnels)
        text = "Questions to name servers."
        yield CounterMetricFamily("egress_router_dns_queries", text, sum(dns.queries for dns in traffic))
        rcodes: Counter[str] = Counter()
        for dns in traffic:
            rcodes.update(dns.rcodes)
        text = "Replies of name servers, by response code."
        yield by_label(CounterMetricFamily, "egress_router_dns_replies", text, "code", rcodes)
