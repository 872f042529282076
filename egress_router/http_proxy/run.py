"""The HTTP proxy as a process: PID 1 of its container."""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.mounts import warn_own_mounts
from egress_router.config.settings import parse_log
from egress_router.config.values import Family, Network, family_of
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.engine import Counters, Limits
from egress_router.daemon.log import LAST_MESSAGES_SECONDS, LOGGER, LogOutput, log_warnings, set_up_log
from egress_router.daemon.loop import Loop, leaving_at_once
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.page.rates import Rates
from egress_router.daemon.page.serve import load as load_pages
from egress_router.daemon.page.serve import router_pages
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.sockets import can_listen
from egress_router.daemon.supervisor import Supervisor
from egress_router.daemon.threads import Threads
from egress_router.daemon.unprivileged import become_unprivileged
from egress_router.dns import one_family
from egress_router.dns.one_family import OneFamily
from egress_router.dns.resolver import Resolver
from egress_router.dns.usable import families_with_a_route
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.metrics import HttpProxyCollector
from egress_router.http_proxy.page import ask_form, http_view
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.config import render_squid
from egress_router.http_proxy.squid.dns_reasons import NAME, DnsReasons
from egress_router.http_proxy.squid.engine import SquidEngine
from egress_router.http_proxy.squid.files import program_for
from egress_router.http_proxy.squid.idle_tunnels import MOST_SECONDS, IdleTunnels
from egress_router.http_proxy.squid.ipv4_only import can_be_without_ipv6
from egress_router.http_proxy.squid.workers import default_workers
from egress_router.net.rtnetlink.kernel import own_addresses
from egress_router.policy.compile import compile_policy
from egress_router.policy.parse import parse_policy

STATUS = "status.json"
#: The largest policies take Squid some seconds to read.
START_SECONDS = 120.0


def run_http_proxy(env: Mapping[str, str], cluster: Callable[[], Iterable[Network]] = tuple) -> int:
    """Run until SIGTERM; return 0. ``cluster`` tells what the pod's routes send into the cluster. Raises
    EgressRouterError when it cannot run.
    """
    loop = Loop()
    with leaving_at_once(), Threads(loop).owning_all():
        return _run(loop, env, cluster)


def _run(loop: Loop, env: Mapping[str, str], cluster: Callable[[], Iterable[Network]]) -> int:
    settings, directory = _read(env)
    families = [family_of(source) for source in settings.sources] or families_with_a_route()
    ipv6 = Family.IPV6 in families or settings.ipv6_clients or _only_ipv6_clients(settings)
    if not ipv6 and can_listen("::1"):
        LOGGER.warning(
            "nothing leaves by IPv6, so name servers are asked for IPv4 addresses alone, and clients are served by "
            "IPv4 alone (EGRESS_HTTP_PROXY_IPV6_CLIENTS=on serves them by IPv6 too)"
        )
    resolver = Resolver()
    if settings.page and settings.health_port is not None:
        load_pages()
    # Before root is given up: the port is a low one.
    name_server = _name_server(families, ipv6=ipv6)
    become_unprivileged(directory)
    if name_server:
        loop.heartbeats.watch(one_family.NAME)
        name_server.start(Resolver(), lambda: loop.heartbeats.beat(one_family.NAME))
    loop.heartbeats.watch(NAME)
    reasons = DnsReasons(sorted(families), resolver, lambda: loop.heartbeats.beat(NAME))
    output = LogOutput(sys.stdout.fileno(), heartbeats=loop.heartbeats) if settings.access_log else None
    workers = settings.workers or default_workers()
    idle = IdleTunnels(settings.port, settings.idle_timeout)
    engine = SquidEngine(
        settings,
        lambda: load_inputs(env),
        own_addresses,
        directory,
        output,
        workers=workers,
        families=tuple(families),
        cluster=cluster,
        ipv6=ipv6,
        reasons=reasons,
        name_server=name_server.address if name_server else None,
        idle=idle,
        heartbeats=loop.heartbeats,
        program=program_for(openssl=settings.connect_sni),
    )
    limits = Limits(grace=settings.grace, delay=settings.delay, start=START_SECONDS)
    supervisor = Supervisor(engine, limits, lambda counters: _report(directory, counters), loop=loop)
    supervisor.threads.start("idle-tunnels", idle.keep_looking, limit=2 * MOST_SECONDS)
    if settings.health_port is not None:
        health = ProxyHealth(supervisor, engine.probe)
        page = MetricsPage(HttpProxyCollector(engine, supervisor.counters, health))
        pages: dict[str, Callable[[], Answer]] = {"/metrics": page, "/status": json_page(health.as_json)}
        asked = {}
        if settings.page:
            rates = Rates(lambda: engine.stats.read().destinations)
            supervisor.threads.start("rates", rates.keep_looking)
            asked = router_pages(
                lambda: http_view(engine, supervisor.counters, health, rates),
                lambda: ask_form(engine, own_addresses, cluster),
            )
        Endpoint(settings.health_port, health, pages, asked=asked, hosts=settings.page_hosts).start(supervisor.threads)
    try:
        return supervisor.run()
    finally:
        reasons.close(LAST_MESSAGES_SECONDS)
        if name_server:
            name_server.close()
        if output:
            output.close(LAST_MESSAGES_SECONDS)


def _read(env: Mapping[str, str]) -> tuple[HttpSettings, Path]:
    """Return the settings and the writable directory, once everything that is wrong was before. Raises
    ConfigurationError.
    """
    problems = Problems()
    inputs = load_inputs(env)
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    settings = parse_http_settings(inputs, problems)
    before = len(problems.warnings)
    # Here too, so that all problems come out together; the engine reads the policy anew for each generation.
    policy = parse_policy(inputs, problems, required=True)
    directory = settings.run_dir
    with contextlib.suppress(OSError):
        # A former container of the pod says there that it is ready.
        (directory / STATUS).unlink()
    problems.raise_if_any()
    if policy is not None:
        # Loads the template and all that rendering needs while it can be read: what comes is another user.
        render_squid(compile_policy(replace(policy, lines=policy.lines[:1])), settings)
    del problems.warnings[before:]
    warn_unknown(inputs, problems)
    warn_own_mounts(inputs, problems)
    log_warnings(problems.warnings)
    return settings, directory


def _name_server(families: Sequence[Family], *, ipv6: bool) -> OneFamily | None:
    """Return a name server for Squid where it would ask for addresses of a family that does not lead outside: it asks
    for IPv4 addresses in any case, and for IPv6 addresses where it has such sockets.
    """
    if len(families) != 1:
        return None
    (family,) = families
    asks_for_ipv6 = (ipv6 or not can_be_without_ipv6()) and can_listen("::1")
    if family is Family.IPV4 and not asks_for_ipv6:
        return None
    try:
        return OneFamily(family)
    except OSError as error:
        taken = f"have what listens on port {one_family.PORT} of all addresses listen on its own alone"
        low = f"lower the pod's sysctl net.ipv4.ip_unprivileged_port_start to {one_family.PORT} or less"
        LOGGER.warning(
            "nothing leaves by %s, and name servers are asked for such addresses all the same: port %d of 127.0.0.0/8 "
            "cannot be listened on (%s). Requests wait where they are never answered; %s",
            Family.IPV4 if family is Family.IPV6 else Family.IPV6,
            one_family.PORT,
            error.strerror,
            taken if error.errno == errno.EADDRINUSE else low,
        )
        return None


def _only_ipv6_clients(settings: HttpSettings) -> bool:
    """Return whether clients can reach the pod by IPv6 alone."""
    others = [address for address in own_addresses() if address not in settings.sources and not address.is_loopback]
    routable = {family_of(address) for address in others if not address.is_link_local}
    return routable == {Family.IPV6}


def _report(directory: Path, counters: Counters) -> None:
    """Leave the counters for readiness probes and metrics, in one piece."""
    fresh = directory / f"{STATUS}.new"
    try:
        fresh.write_text(json.dumps(asdict(counters)) + "\n")
        fresh.replace(directory / STATUS)
    except OSError as error:
        # A full disk is no reason to stop serving.
        LOGGER.warning("%s cannot be written: %s", directory / STATUS, error.strerror)
