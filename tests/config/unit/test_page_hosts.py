"""EGRESS_PAGE_HOSTS: names by which pages are served besides our own."""

from __future__ import annotations

import pytest

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.settings import PAGE_HOSTS, parse_page_hosts


@pytest.mark.parametrize(
    ("text", "hosts", "problem"),
    [
        (None, (), ""),
        ("routers.example.com", ("routers.example.com",), ""),
        ("Routers.Example.com., b.example.com  c", ("routers.example.com", "b.example.com", "c"), ""),
        ("routers.example.com:443", (), "without ports"),
        ("*.example.com", (), "is neither an address nor a name"),
    ],
)
def test_names(text: str | None, hosts: tuple[str, ...], problem: str) -> None:
    problems = Problems()
    env = {} if text is None else {PAGE_HOSTS: text}
    assert parse_page_hosts(Inputs(env), problems) == hosts
    assert [problem in str(error) for error in problems.errors] == [True] * bool(problem)
