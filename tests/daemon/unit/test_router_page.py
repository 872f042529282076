"""The page of a router: what it shows, in which order, and what can come from outside."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from egress_router.daemon.engine import Counters
from egress_router.daemon.page.level import Level
from egress_router.daemon.page.query import Query, parse_query
from egress_router.daemon.page.rates import MOST, STEPS, Rates
from egress_router.daemon.page.refusals import MOST as MOST_REFUSALS
from egress_router.daemon.page.refusals import Refusal, Refusals
from egress_router.daemon.page.router import MOST_ROWS, router_page
from egress_router.daemon.page.view import (
    AskForm,
    DestinationRow,
    ListChange,
    ListHistory,
    PartRow,
    Reply,
    RouterView,
    engine_row,
    redacted,
)
from egress_router.errors import PlatformError
from tests.support.examples import examples

NOW = 1_700_000_000.0
HOSTILE = '"><script>alert(1)</script><b onload=x>'
VIEW = RouterView(
    kind="redirect",
    made=NOW,
    figures=(("192.0.2.46", "EGRESS_SOURCE"), ("2", "destinations")),
    warnings=["bank.example.com has no address: it does not exist; what is sent to it is dropped"],
    destinations=[
        DestinationRow(1, "80 tcp 203.0.113.25", state="redirected", count=12345, size=10, rates=(0.0, 1.0, 2.0)),
        DestinationRow(2, "443 tcp bank.example.com", Level.CUT_OFF, "dropped: it does not exist", count=0),
    ],
    parts=[PartRow("gateway 192.0.2.1", Level.FINE, "answers")],
    refusals=[Refusal("10.128.0.7", "evil.example.com:443", 'line 3 "!evil.example.com"', 4, NOW - 60)],
    reloaded=NOW - 100,
    change=ListChange(("443 tcp bank.example.com",), ("81 tcp 203.0.113.26",)),
)


def text_of(html: str) -> str:
    plain = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", html, flags=re.DOTALL)
    return re.sub(r"[ \n]+", " ", unescape(plain))


def test_what_is_wrong_comes_first() -> None:
    text = text_of(router_page(VIEW, Query()))
    assert "ready, but not all is well" in text
    assert text.index("bank.example.com has no address") < text.index("80 tcp 203.0.113.25")
    assert text.index("443 tcp bank.example.com") < text.index("80 tcp 203.0.113.25"), "trouble before what is well"
    assert "12\u202f345" in text
    assert "2.0/s" in text
    assert "evil.example.com:443" in text
    assert "+ 443 tcp bank.example.com" in text
    assert "− 81 tcp 203.0.113.26" in text
    assert "Read anew" in text


def test_one_that_is_not_ready_says_so() -> None:
    view = RouterView("HTTP proxy", NOW, reasons=["squid is not in force"], refused="line 3: no host")
    page = router_page(view, Query())
    assert "<title>✖ HTTP proxy: not ready</title>" in page
    assert text_of(page).index("squid is not in force") < text_of(page).index("line 3: no host")
    assert "none" in text_of(page)


def test_a_standby_is_well() -> None:
    view = RouterView("redirect", NOW, standby=True)
    assert (view.level, view.state) == (Level.FINE, "stands by")
    assert RouterView("redirect", NOW, standby=True, reasons=["no carrier"]).level is Level.CUT_OFF


def test_a_filter_keeps_what_fits() -> None:
    text = text_of(router_page(VIEW, Query(words="BANK dropped")))
    assert "443 tcp bank.example.com" in text
    assert "80 tcp 203.0.113.25" not in text
    assert "none that fits" in text_of(router_page(VIEW, Query(words="nothing")))
    assert "gateway 192.0.2.1" in text_of(router_page(VIEW, Query(words="gateway")))


def test_thousands_of_lines_are_counted() -> None:
    rows = [DestinationRow(n, f"{n} tcp 203.0.113.25") for n in range(1, MOST_ROWS + 11)]
    page = router_page(RouterView("redirect", NOW, destinations=rows), Query())
    assert page.count('<th scope="row">') == MOST_ROWS
    assert "and 10 more" in text_of(page)


def test_a_report_has_no_script_and_no_form() -> None:
    form = AskForm("8080/tcp", clients="address", answer=lambda target, client: [Reply(True, f"{target} {client}")])
    page = router_page(VIEW, Query(report=True), form)
    assert "<script" not in page
    assert "<form" not in page
    assert "<form" in router_page(VIEW, Query(), form)


def test_a_report_can_go_into_a_ticket() -> None:
    told = re.compile(r"192\.0\.2|203\.0\.113|10\.128|example|81 tcp")
    assert len(set(told.findall(router_page(VIEW, Query(report=True))))) == 5, "the control"
    assert not told.search(router_page(VIEW, Query(report=True, redact=True)))


def test_a_ticket_of_a_long_list_takes_as_long_as_the_list() -> None:
    """No name costs a look at all names before it: 20,000 took 10 s of processor time."""
    rows = [DestinationRow(n, "x", addresses=(f"a{n}",)) for n in range(20_000)]
    started = time.process_time()
    shown = redacted(replace(VIEW, destinations=rows))
    assert time.process_time() - started < 3
    assert shown.destinations[-1].addresses == ("address-20000",)


def test_what_is_asked_is_answered() -> None:
    asked: list[tuple[str, str]] = []

    def answer(target: str, client: str) -> list[Reply]:
        asked.append((target, client))
        return [Reply(True, "goes"), Reply(False, "does not"), Reply(None, "may")]

    form = AskForm("free.fr:443", clients="address", answer=answer)
    text = text_of(router_page(VIEW, parse_query("target=free.fr%3A443&client=10.1.2.3"), form))
    assert asked == [("free.fr:443", "10.1.2.3")]
    assert "allowed goes" in text
    assert "refused does not" in text
    assert "depends may" in text


@examples(60)
@given(st.text(max_size=40) | st.just(HOSTILE))
def test_text_from_outside_is_text(text: str) -> None:
    """Names, lines, clients, questions and answers: nothing of them becomes markup."""
    view = RouterView(
        text,
        NOW,
        ((text, text),),
        [text],
        [text],
        text,
        [DestinationRow(1, text, state=text, addresses=(text,), age=1.0)],
        [PartRow(text or "x", Level.FINE, text)],
        [Refusal(text, text, text, 1, NOW)],
        NOW,
        ListChange((text,), (text,)),
        text,
    )
    form = AskForm(text, clients="address", answer=lambda target, client: [Reply(True, target + client)])
    plain = RouterView(
        "x", NOW, (("x", "x"),), ["x"], ["x"], "x", [DestinationRow(1, "x", state="x", addresses=("x",), age=1.0)]
    )
    for query in (
        Query(words="", target=text or "x", client=text),
        Query(report=True),
        Query(redact=True, report=True),
    ):
        page = router_page(view, query, form)
        assert "<script>alert" not in page
        assert "<b onload" not in page
    tags = re.compile(r"<(/?[a-zA-Z!][a-zA-Z]*)")
    full = tags.findall(router_page(view, Query(), None))
    assert set(full) <= set(tags.findall(router_page(VIEW, Query(), form))) | set(
        tags.findall(router_page(plain, Query()))
    )


@examples(60)
@given(st.text(max_size=200))
def test_any_query_is_one(text: str) -> None:
    assert isinstance(parse_query(text), Query)


def test_queries() -> None:
    assert parse_query("q=shop+1&target=%20a&client=b&report=1&redact=1") == Query("shop 1", "a", "b", True, True)
    many = "&".join(f"a{n}=1" for n in range(100))
    assert parse_query(many) == Query()
    assert parse_query(f"{many}&redact=1").redact, "nothing is shown that shall not be"
    assert parse_query("") == Query()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_growth_per_second() -> None:
    clock, counters = Clock(), {"a": 100}
    rates = Rates(lambda: counters, clock)
    rates.look()
    assert rates.of("a") == (), "one look is no growth"
    clock.now += 10
    counters["a"], counters["b"] = 150, 20
    rates.look()
    assert rates.of("a") == (5.0,)
    assert rates.of("b") == (2.0,), "what was not there began at nothing"
    clock.now += 20
    counters["a"] = 40
    rates.look()
    assert rates.of("a") == (5.0, 2.0), "a counter that is smaller began anew"
    del counters["b"]
    clock.now += 10
    rates.look()
    assert rates.of("b") == ()
    counters["b"] = 10
    clock.now += 10
    rates.look()
    assert rates.of("b") == (0.0, 0.0, 0.0, 1.0), "as long as the others"
    assert rates.totals() == {"a": 40, "b": 10}


def test_rates_are_bounded() -> None:
    clock = Clock()
    counters = {str(n): 0 for n in range(MOST + 10)}
    rates = Rates(lambda: counters, clock)
    for _ in range(STEPS + 10):
        rates.look()
        clock.now += 10
    assert len(rates.of("0")) == STEPS
    assert rates.of(str(MOST + 5)) == ()
    assert len(rates.totals()) == MOST + 10


def test_a_look_that_fails_is_left_out() -> None:
    clock = Clock()
    answers: Iterator[dict[str, int] | PlatformError] = iter([{"a": 1}, PlatformError("no"), {"a": 21}])

    def read() -> dict[str, int]:
        found = next(answers)
        if isinstance(found, PlatformError):
            raise found
        return found

    rates = Rates(read, clock)
    for _ in range(3):
        rates.look()
        clock.now += 10
    assert rates.of("a") == (1.0,), "20 in 20 seconds"


def test_the_small_line() -> None:
    assert DestinationRow(1, "a", rates=(0.0, 0.0)).points == ""
    assert DestinationRow(1, "a", rates=()).points == ""
    assert DestinationRow(1, "a", rates=(3.0,)).points == "118,19 120,1", "one step is seen, too"
    points = DestinationRow(1, "a", rates=(0.0, 4.0, 2.0)).points.split()
    assert [point.split(",")[1] for point in points] == ["19", "1", "10"]
    assert points[-1].startswith("120,"), "the newest at the right"
    full = DestinationRow(1, "a", rates=tuple(range(STEPS))).points.split()
    assert full[0] == "0,19"


def test_refusals_are_counted_and_bounded() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.add([("10.0.0.1", "a:443", "line 1"), ("10.0.0.1", "a:443", "line 1")])
    clock.now = 200.0
    refusals.add([("10.0.0.2", "a:443", "line 1")])
    assert refusals.read() == (
        Refusal("10.0.0.2", "a:443", "line 1", 1, 200.0),
        Refusal("10.0.0.1", "a:443", "line 1", 2, 100.0),
    )
    refusals.add(("10.0.0.3", f"{n}:443", "line 1") for n in range(10 * MOST_REFUSALS))
    assert len(refusals.read()) == MOST_REFUSALS
    assert refusals.read()[0].target == f"{10 * MOST_REFUSALS - 1}:443"


def test_a_list_and_the_one_before() -> None:
    history = ListHistory()
    history.take(iter(["a", "b"]))
    history.take(["a", "b"])
    assert not history.at, "nothing changed"
    history.take(["b", "c", "d"])
    assert history.at
    assert history.change == ListChange(("c", "d"), ("a",))


def test_the_engine_in_words() -> None:
    assert engine_row("Squid", Counters()) == PartRow("Squid", Level.CUT_OFF, "not in force")
    row = engine_row("Squid", Counters(generation=3, ready=True, draining=1, restarts=2))
    assert row.state == "in force: generation 3, 1 former ones drain, 2 times it died and was started again"
