"""The questions of the benchmark, one module each with a ``QUESTION``, in the order of the report."""

from __future__ import annotations

from bench.question import Question


def questions() -> dict[str, Question]:
    """Return all questions by name."""
    from bench.questions import (
        connections,
        dns_proxy,
        egress_ips,
        egress_tunnel,
        http_kinds,
        http_proxy,
        http_reload,
        long_lived,
        packets,
        start_up,
    )

    modules = (
        start_up,
        connections,
        packets,
        http_proxy,
        http_kinds,
        http_reload,
        dns_proxy,
        egress_ips,
        egress_tunnel,
        long_lived,
    )
    return {module.QUESTION.name: module.QUESTION for module in modules}
