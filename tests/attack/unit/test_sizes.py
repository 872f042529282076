"""What goes into logs and answers has a size, whatever the input has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.dns_proxy.destinations import parse_dns_proxy
from egress_router.errors import ConfigurationError, ToolFailed
from egress_router.policy.parse import parse_policy
from egress_router.redirect.config import parse_router
from tests.cli.unit.conftest import ROUTER, CommandLine, cli

__all__ = ["cli"]

LINES = 100_000
PARSERS: dict[str, Callable[[Inputs, Problems], object]] = {
    "EGRESS_DESTINATION": parse_router,
    "EGRESS_HTTP_PROXY_DESTINATION": lambda inputs, problems: parse_policy(inputs, problems, required=True),
    "EGRESS_DNS_PROXY_DESTINATION": lambda inputs, problems: parse_dns_proxy(inputs, problems, required=True),
}


@pytest.mark.parametrize("variable", PARSERS)
def test_problems_of_every_line(variable: str) -> None:
    problems = Problems()
    PARSERS[variable](
        Inputs({**ROUTER, variable: "\n".join(f"x y {number} !\x1b" for number in range(LINES))}), problems
    )
    assert len(problems.errors) >= LINES
    text = str(ConfigurationError(problems.errors))
    assert len(text) < 200_000
    assert text.splitlines()[-1].endswith(
        f"and {len(problems.errors) - 100} more (egress-router check -o json has all)"
    )
    assert "\x1b" not in text


def test_check_tells_the_first_ones_and_has_all_as_json(cli: CommandLine) -> None:
    variables = {**ROUTER, "EGRESS_DESTINATION": "\n".join("bad" for _ in range(500))}
    assert len(cli("check", env=variables).err.splitlines()) == 102
    assert len(cli("check", "-o", "json", env=variables).json["problems"]) == 500


def test_what_a_tool_says() -> None:
    assert len(str(ToolFailed(["nft", "-f", "-"], 1, "x" * 10_000_000))) < 5000
