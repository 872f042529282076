"""The DNS proxy as a process: PID 1 of its container."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.mounts import warn_own_mounts
from egress_router.config.settings import LogLevel, parse_log
from egress_router.config.values import Network
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.engine import Limits
from egress_router.daemon.log import LAST_MESSAGES_SECONDS, LogOutput, log_warnings, set_up_log
from egress_router.daemon.loop import Loop, leaving_at_once
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.page.rates import Rates
from egress_router.daemon.page.serve import load as load_pages
from egress_router.daemon.page.serve import router_pages
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.supervisor import Supervisor
from egress_router.daemon.threads import Threads
from egress_router.daemon.unprivileged import become_unprivileged
from egress_router.dns.resolver import Resolver
from egress_router.dns.usable import Usable, families_with_a_route
from egress_router.dns_proxy.by_name.config import VARIABLE as BY_NAME
from egress_router.dns_proxy.destinations import VARIABLE, DnsProxyConfig, parse_dns_proxy
from egress_router.dns_proxy.haproxy.config import load_template
from egress_router.dns_proxy.haproxy.engine import HaproxyEngine, first_unprivileged_port
from egress_router.dns_proxy.haproxy.watcher import BackendWatcher
from egress_router.dns_proxy.metrics import DnsProxyCollector, names_as_json
from egress_router.dns_proxy.page import ask_form, counts, dns_view
from egress_router.errors import ConfigurationError
from egress_router.net.rtnetlink.kernel import own_addresses
from egress_router.policy.judge import Judge
from egress_router.policy.shadowed import shadow_warnings

log = logging.getLogger(__name__)


def run_dns_proxy(
    env: Mapping[str, str],
    egress_sources: Callable[[], list[str]],
    cluster: Callable[[], Iterable[Network]] = tuple,
) -> int:
    """Run until SIGTERM; return 0. ``egress_sources`` are the addresses that the pod leaves with, asked where
    EGRESS_SOURCE is not set; ``cluster`` tells what its routes send into the cluster. Raises EgressRouterError when it
    cannot run.
    """
    loop = Loop()
    with leaving_at_once(), Threads(loop).owning_all():
        return _run(loop, env, egress_sources, cluster)


def _run(
    loop: Loop,
    env: Mapping[str, str],
    egress_sources: Callable[[], list[str]],
    cluster: Callable[[], Iterable[Network]],
) -> int:
    reader = _Reader(env, egress_sources)
    config = reader.read(first=True)
    load_template()
    if config.page and config.health_port is not None:
        load_pages()
    become_unprivileged(config.run_dir, low_ports=first_unprivileged_port() > 1)
    files = [env.get(f"{variable}_FILE", "").strip() for variable in (VARIABLE, BY_NAME)]
    loop.heartbeats.watch("names")
    output = LogOutput(sys.stdout.fileno(), heartbeats=loop.heartbeats) if config.access_log else None
    engine = HaproxyEngine(
        reader.read,
        BackendWatcher(
            Resolver(config.nameservers),
            sorted(config.sources) or families_with_a_route(),
            Usable(tuple(cluster())),
            lambda: loop.heartbeats.beat("names"),
            config.sources,
        ),
        config.run_dir / "dns-proxy",
        watch=[Path(file) for file in files if file],
        output=output,
        heartbeats=loop.heartbeats,
        judge=lambda policy: Judge(policy, own_addresses(), cluster()),
        cluster=cluster,
    )
    supervisor = Supervisor(engine, Limits(grace=float(config.grace), delay=float(config.delay)), loop=loop)
    try:
        if config.health_port is not None:
            health = ProxyHealth(supervisor, engine.probe)
            page = MetricsPage(DnsProxyCollector(engine, supervisor.counters, health))
            pages: dict[str, Callable[[], Answer]] = {
                "/metrics": page,
                "/status": json_page(lambda: health.as_json() | names_as_json(engine)),
            }
            asked = {}
            if config.page:
                rates = Rates(lambda: counts(engine))
                supervisor.threads.start("rates", rates.keep_looking)
                asked = router_pages(
                    lambda: dns_view(engine, supervisor.counters, health, rates),
                    lambda: ask_form(engine, lambda: engine.judge_in_force),
                )
            served = Endpoint(
                config.health_port, health, pages, warnings=engine.warnings, asked=asked, hosts=config.page_hosts
            )
            served.start(supervisor.threads)
        return supervisor.run()
    finally:
        engine.close()
        if output:
            output.close(LAST_MESSAGES_SECONDS)


class _Reader:
    """Reads the configuration, again and again, from the environment and the file it names."""

    def __init__(self, env: Mapping[str, str], egress_sources: Callable[[], list[str]]) -> None:
        self._env = dict(env)
        self._egress_sources = egress_sources
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
        if first:
            warn_own_mounts(inputs, problems)
        if first and config is not None:
            self._health_port = config.health_port
        if config is not None and config.health_port != self._health_port:
            # The default gave way to a destination, which only a proxy that starts can do.
            problems.errors += [p for p in problems.warnings if p.variable == "EGRESS_HEALTH_PORT"]
        if config is None or problems.errors:
            raise ConfigurationError(problems.errors)
        shadowed = shadow_warnings(config.by_name.policy) if config.by_name else []
        log_warnings([*problems.warnings, *shadowed])
        return config

    def _set_up(self, problems: Problems) -> None:
        settings = parse_log(load_inputs(self._env), problems, terminal=sys.stderr.isatty())
        if self._env.get("EGRESS_DNS_PROXY_DEBUG"):
            settings = replace(settings, level=LogLevel.DEBUG)
        set_up_log(settings)
        if self._env.get("EGRESS_SOURCE", "").strip():
            return
        # Upstream's manifests set it for the init container alone, which leaves it in the routes.
        sources = self._egress_sources()
        self._env["EGRESS_SOURCE"] = " ".join(sources)
        if sources:
            log.info("EGRESS_SOURCE is not set here; the routes say %s", self._env["EGRESS_SOURCE"])
        else:
            log.warning(
                "EGRESS_SOURCE is not set and the init container left no route: connections leave with the "
                "address that the kernel picks"
            )
