"""``egress-router dns-proxy``: PID 1 of the DNS proxy container."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import click

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.settings import LogLevel, parse_log
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.engine import Limits
from egress_router.daemon.log import LogOutput, set_up_log
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.supervisor import Supervisor
from egress_router.dns.resolver import Resolver
from egress_router.dns.usable import unusable
from egress_router.dns_proxy.destinations import VARIABLE, DnsProxyConfig, parse_dns_proxy
from egress_router.dns_proxy.haproxy.engine import LAST_LINES_SECONDS, HaproxyEngine, families_with_a_route
from egress_router.dns_proxy.metrics import DnsProxyCollector, names_as_json
from egress_router.dns_proxy.names import BackendWatcher
from egress_router.errors import ConfigurationError, EgressRouterError
from egress_router.net.rtnetlink.kernel import Rtnetlink
from egress_router.net.rtnetlink.values import MAIN_TABLE
from egress_router.redirect.network_state import PROTOCOL

log = logging.getLogger(__name__)

#: The one directory that must be writable; override with EGRESS_RUN_DIR.
RUN_DIR = "/run/egress-router"


@click.command("dns-proxy", short_help="Run the DNS proxy router (HAProxy).")
def command() -> int:
    """Forward TCP connections to names, leaving with EGRESS_SOURCE: the entry point of the DNS proxy container.

    Reads EGRESS_DNS_PROXY_DESTINATION, or the file that EGRESS_DNS_PROXY_DESTINATION_FILE names. SIGHUP or a change of
    the file reloads; SIGTERM lets connections finish for EGRESS_SHUTDOWN_GRACE.

    \b
    Example:
      EGRESS_DNS_PROXY_DESTINATION='8080 example.com 80' egress-router dns-proxy
    """  # noqa: D301  # click wants the character
    return run_dns_proxy(os.environ)


def run_dns_proxy(env: Mapping[str, str]) -> int:
    """Run until SIGTERM; return 0. Raises EgressRouterError when it cannot run."""
    reader = _Reader(env)
    config = reader.read(first=True)
    file = env.get(f"{VARIABLE}_FILE", "").strip()
    output = LogOutput(sys.stdout.fileno()) if config.access_log else None
    engine = HaproxyEngine(
        reader.read,
        BackendWatcher(Resolver(config.nameservers), sorted(config.sources) or families_with_a_route(), unusable),
        Path(env.get("EGRESS_RUN_DIR") or RUN_DIR) / "dns-proxy",
        watch=[Path(file)] if file else [],
        output=output,
    )
    supervisor = Supervisor(engine, Limits(grace=float(config.grace)))
    try:
        if config.health_port is not None:
            health = ProxyHealth(supervisor, engine.probe)
            page = MetricsPage(DnsProxyCollector(engine, supervisor.counters, health))
            pages: dict[str, Callable[[], Answer]] = {
                "/metrics": page,
                "/status": json_page(lambda: health.as_json() | names_as_json(engine)),
            }
            Endpoint(config.health_port, health, pages, remarks=engine.remarks).start(supervisor.threads)
        return supervisor.run()
    finally:
        engine.close()
        if output:
            output.close(LAST_LINES_SECONDS)


class _Reader:
    """Reads the configuration, again and again, from the environment and the file it names."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._health_port: int | None = None

    def read(self, *, first: bool = False) -> DnsProxyConfig:
        """Return the configuration; warnings are logged. Raises ConfigurationError.

        The ``first`` time the log is set up, and the sources are found where EGRESS_SOURCE is not set.
        """
        problems = Problems()
        if first:
            self._set_up(problems)
        inputs = load_inputs(self._env)
        config = parse_dns_proxy(inputs, problems, required=True)
        warn_unknown(inputs, problems)
        if first and config is not None:
            self._health_port = config.health_port
        if config is not None and config.health_port != self._health_port:
            # The default gave way to a destination, which only a proxy that starts can do.
            problems.errors += [p for p in problems.warnings if p.variable == "EGRESS_HEALTH_PORT"]
        if config is None or problems.errors:
            raise ConfigurationError(problems.errors)
        for warning in problems.warnings:
            log.warning("%s", warning)
        return config

    def _set_up(self, problems: Problems) -> None:
        settings = parse_log(load_inputs(self._env), problems, terminal=sys.stderr.isatty())
        if self._env.get("EGRESS_DNS_PROXY_DEBUG"):
            settings = replace(settings, level=LogLevel.DEBUG)
        set_up_log(settings)
        if self._env.get("EGRESS_SOURCE", "").strip():
            return
        # Upstream's manifests set it for the init container alone, which leaves it in the routes.
        sources = egress_sources()
        self._env["EGRESS_SOURCE"] = " ".join(sources)
        if sources:
            log.info("EGRESS_SOURCE is not set here; the routes say %s", self._env["EGRESS_SOURCE"])
        else:
            log.warning(
                "EGRESS_SOURCE is not set and the init container left no route: connections leave with the "
                "address that the kernel picks"
            )


def egress_sources() -> list[str]:
    """Return the addresses that the init container's default routes of this namespace leave with, [] without any."""
    try:
        with Rtnetlink() as kernel:
            routes = kernel.observe().routes
    except (EgressRouterError, OSError) as error:
        log.warning("the routes cannot be read: %s", error)
        return []
    ours = [r for r in routes if r.is_default and r.table == MAIN_TABLE and r.protocol == PROTOCOL]
    return [str(route.source) for route in ours if route.source is not None]
