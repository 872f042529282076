"""`egress-router http-proxy`: the entry point of the proxy container."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from egress_router.config.inputs import Problems, load_inputs, warn_unknown
from egress_router.config.settings import parse_log
from egress_router.daemon.endpoint import Answer, Endpoint, json_page
from egress_router.daemon.engine import Counters, Limits
from egress_router.daemon.log import LOGGER, LogOutput, set_up_log
from egress_router.daemon.metrics import MetricsPage
from egress_router.daemon.proxy_health import ProxyHealth
from egress_router.daemon.supervisor import Supervisor
from egress_router.http_proxy.config import parse_http_settings
from egress_router.http_proxy.metrics import HttpProxyCollector
from egress_router.http_proxy.policy.compile import compile_policy
from egress_router.http_proxy.policy.parse import parse_http_policy
from egress_router.http_proxy.policy.values import HttpPolicy
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


@click.command(
    "http-proxy",
    short_help="Run the HTTP proxy router (Squid).",
    epilog="""
    \b
    Example:
      EGRESS_HTTP_PROXY_DESTINATION='*.example.com' egress-router http-proxy
    """,
)
def command() -> int:
    """Let HTTP clients reach what the policy allows: the entry point of the proxy container.

    Reads EGRESS_HTTP_PROXY_DESTINATION, or the file that EGRESS_HTTP_PROXY_DESTINATION_FILE names. SIGHUP or a change
    of the file reloads; SIGTERM lets transfers finish for EGRESS_SHUTDOWN_GRACE.
    """
    problems = Problems()
    inputs = load_inputs(os.environ)
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
    become_unprivileged(directory)
    output = LogOutput(sys.stdout.fileno()) if settings.access_log else None
    workers = settings.workers or default_workers()
    engine = SquidEngine(settings, lambda: load_inputs(os.environ), own_addresses, directory, output, workers=workers)
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


def _report(directory: Path, counters: Counters) -> None:
    """Leave the counters for readiness probes and metrics, in one piece."""
    fresh = directory / f"{STATUS}.new"
    try:
        fresh.write_text(json.dumps(asdict(counters)) + "\n")
        fresh.replace(directory / STATUS)
    except OSError as error:
        # A full disk is no reason to stop serving.
        LOGGER.warning("%s cannot be written: %s", directory / STATUS, error.strerror)
