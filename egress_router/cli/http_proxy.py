"""`egress-router http-proxy`: the entry point of the proxy container."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from egress_router.config.http_policy import parse_http_policy
from egress_router.config.http_proxy import parse_http_settings
from egress_router.config.inputs import Problems, load_inputs
from egress_router.config.known import warn_unknown
from egress_router.config.log import parse_log
from egress_router.model.http_policy import HttpPolicy
from egress_router.plan.http_compile import compile_policy
from egress_router.proxy.engine import Counters, Limits
from egress_router.proxy.squid import SquidEngine, become_unprivileged
from egress_router.proxy.supervisor import Supervisor
from egress_router.render.squid import render_squid
from egress_router.runtime.log import LOGGER, set_up_log

DEFAULT_DIRECTORY = "/run/egress-router"
#: The largest policies take Squid some seconds to read.
START_SECONDS = 120.0


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
    # Here too, so that all problems come out together; the engine reads the policy anew for each generation.
    policy = parse_http_policy(inputs, problems, required=True)
    directory = Path(inputs.value("EGRESS_RUN_DIR") or DEFAULT_DIRECTORY)
    problems.raise_if_any()
    if policy is not None:
        # Loads the template and all that rendering needs while it can be read: what comes is another user.
        render_squid(compile_policy(HttpPolicy(policy.lines[:1])), settings)
    problems.warnings.clear()
    warn_unknown(inputs, problems)
    for warning in problems.warnings:
        LOGGER.warning("%s", warning)
    become_unprivileged(directory)
    engine = SquidEngine(settings, lambda: load_inputs(os.environ), directory, _write_line)
    supervisor = Supervisor(
        engine, Limits(grace=settings.grace, start=START_SECONDS), lambda counters: _report(directory, counters)
    )
    return supervisor.run()


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _report(directory: Path, counters: Counters) -> None:
    """Leave the counters for readiness probes and metrics, in one piece."""
    fresh = directory / "status.json.new"
    try:
        fresh.write_text(json.dumps(asdict(counters)) + "\n")
        fresh.replace(directory / "status.json")
    except OSError as error:
        # A full disk is no reason to stop serving.
        LOGGER.warning("%s cannot be written: %s", directory / "status.json", error.strerror)
