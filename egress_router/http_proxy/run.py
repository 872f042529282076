"""The HTTP proxy as a process: PID 1 of its container."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.settings import parse_log
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.engine import Counters, Limits
from egress_router.daemon.log import LOGGER, LogOutput, set_up_log
from egress_router.daemon.loop import leaving_at_once
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.supervisor import Supervisor
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.metrics import HttpProxyCollector
from egress_router.http_proxy.policy.compile import compile_policy
from egress_router.http_proxy.policy.parse import parse_http_policy
from egress_router.http_proxy.policy.values import HttpPolicy, HttpSettings
from egress_router.http_proxy.squid.config import render_squid
from egress_router.http_proxy.squid.engine import SquidEngine, become_unprivileged
from egress_router.http_proxy.squid.workers import default_workers
from egress_router.net.rtnetlink.kernel import own_addresses

DEFAULT_DIRECTORY = "/run/egress-router"
STATUS = "status.json"
#: The largest policies take Squid some seconds to read.
START_SECONDS = 120.0
#: How long the reader of standard output may take for the last lines.
LAST_LINES_SECONDS = 2.0


def run_http_proxy(env: Mapping[str, str]) -> int:
    """Run until SIGTERM; return 0. Raises EgressRouterError when it cannot run."""
    with leaving_at_once():
        return _run(env)


def _run(env: Mapping[str, str]) -> int:
    settings, directory = _read(env)
    become_unprivileged(directory)
    output = LogOutput(sys.stdout.fileno()) if settings.access_log else None
    workers = settings.workers or default_workers()
    engine = SquidEngine(settings, lambda: load_inputs(env), own_addresses, directory, output, workers=workers)
    supervisor = Supervisor(
        engine, Limits(grace=settings.grace, start=START_SECONDS), lambda counters: _report(directory, counters)
    )
    if settings.health_port is not None:
        health = ProxyHealth(supervisor, engine.probe)
        page = MetricsPage(HttpProxyCollector(engine, supervisor.counters, health))
        pages: dict[str, Callable[[], Answer]] = {"/metrics": page, "/status": json_page(health.as_json)}
        Endpoint(settings.health_port, health, pages).start(supervisor.threads)
    try:
        return supervisor.run()
    finally:
        if output:
            output.close(LAST_LINES_SECONDS)


def _read(env: Mapping[str, str]) -> tuple[HttpSettings, Path]:
    """Return the settings and the writable directory, once everything that is wrong was told. Raises
    ConfigurationError.
    """
    problems = Problems()
    inputs = load_inputs(env)
    set_up_log(parse_log(inputs, problems, terminal=sys.stderr.isatty()))
    settings = parse_http_settings(inputs, problems)
    told = len(problems.warnings)
    # Here too, so that all problems come out together; the engine reads the policy anew for each generation.
    policy = parse_http_policy(inputs, problems, required=True)
    directory = Path(inputs.value("EGRESS_RUN_DIR") or DEFAULT_DIRECTORY)
    with contextlib.suppress(OSError):
        # A former container of the pod says there that it is ready.
        (directory / STATUS).unlink()
    problems.raise_if_any()
    if policy is not None:
        # Loads the template and all that rendering needs while it can be read: what comes is another user.
        render_squid(compile_policy(HttpPolicy(policy.lines[:1])), settings)
    del problems.warnings[told:]
    warn_unknown(inputs, problems)
    for warning in problems.warnings:
        LOGGER.warning("%s", warning)
    return settings, directory


def _report(directory: Path, counters: Counters) -> None:
    """Leave the counters for readiness probes and metrics, in one piece."""
    fresh = directory / f"{STATUS}.new"
    try:
        fresh.write_text(json.dumps(asdict(counters)) + "\n")
        fresh.replace(directory / STATUS)
    except OSError as error:
        # A full disk is no reason to stop serving.
        LOGGER.warning("%s cannot be written: %s", directory / STATUS, error.strerror)
