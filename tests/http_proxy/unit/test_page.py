"""What the page of the HTTP proxy answers, without a Squid."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from egress_router.config.inputs import Inputs
from egress_router.daemon.page.view import MOST_REPLIES, Reply, counted
from egress_router.http_proxy.page import ask
from egress_router.http_proxy.parent import Parent
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.squid.access_log import MAX_DESTINATIONS, OTHER, RequestCounts, RequestStats
from egress_router.http_proxy.squid.engine import SquidConfiguration, SquidEngine
from egress_router.policy.compile import compile_policy
from tests.http_proxy.unit.strategies import parse


def answers(policy: str, target: str, parent: Parent | None = None, at_start: Parent | None = None) -> list[Reply]:
    parsed = parse(policy)
    in_force = SquidConfiguration(parsed, compile_policy(parsed), Path(), {}, parent)
    engine = SquidEngine(HttpSettings(parent=at_start), lambda: Inputs({}), list, Path(), None)
    return ask(in_force, engine, target, "", (), ())


def test_many_groups_of_clients_are_counted() -> None:
    """Each looks at the whole list: with 9,000 lines and 500 sections all of them took nine seconds."""
    sections = "\n".join(f"[from 10.{n}.0.0/16]\nhost{n}.example.com" for n in range(MOST_REPLIES + 10))
    found = answers(sections, "host1.example.com:443")
    assert len(found) == MOST_REPLIES + 1
    assert found[-1] == Reply(None, "and 11 more groups of clients: ask for the address of one")


def test_the_parent_is_the_one_in_force_and_nobody_is_told_as_whom() -> None:
    """Its file may have changed since the start; with some proxies the user is the secret."""
    new, old = Parent("new.example.com", 3128, "token"), Parent("old.example.com", 3128, "token")
    (reply,) = answers("*", "http://free.fr/", new, old)
    assert reply.text == 'free.fr port 80: allowed by line 1 "*", and goes on to new.example.com:3128'


def test_a_line_without_figures_of_its_own_has_not_carried_nothing() -> None:
    stats = RequestStats()
    batch = RequestCounts()
    batch.destinations.update({f"a{n}.example.com": 1 for n in range(MAX_DESTINATIONS - 1)})
    stats.add(batch)
    totals = stats.read().destinations
    assert (counted(totals, "a1.example.com", OTHER), counted(totals, "idle.example.com", OTHER)) == (1, 0)
    stats.add(RequestCounts(destinations=Counter({"b.example.com": 1, "c.example.com": 5})))
    totals = stats.read().destinations
    assert (counted(totals, "b.example.com", OTHER), counted(totals, "c.example.com", OTHER)) == (1, None)
