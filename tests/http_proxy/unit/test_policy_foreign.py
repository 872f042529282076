"""Lists that were written for other programs: what they would be here is said."""

from __future__ import annotations

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.policy.parse import VARIABLE, parse_policy


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("https://example.com/path?x", '"example.com": the host alone'),
        ("!http://user@example.com:8080/", '"!example.com:8080"'),
        ("https://[2001:db8::1]:443/", '"[2001:db8::1]:443"'),
        (
            "acl allowed dstdomain .example.com www.example.org",
            '"example.com" and "*.example.com" and "www.example.org"',
        ),
        ("acl lan dst 192.0.2.0/24", '"192.0.2.0/24"'),
        ("acl ads dstdom_regex ^ads", "no regular expressions"),
        ("acl me src 10.0.0.0/8", "only destinations decide here"),
        ("http_access deny ads", "! in front"),
    ],
)
def test_what_a_foreign_line_would_be(line: str, part: str) -> None:
    problems = Problems()
    assert parse_policy(Inputs({VARIABLE: f"example.net\n{line}\n"}), problems) is None
    (problem,) = problems.errors
    assert problem.line == 2
    assert part in problem.expected
