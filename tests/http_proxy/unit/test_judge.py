"""The judge decides as the reference does, line by line, and asks DNS only where that matters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_router.policy.clients import for_client
from egress_router.policy.evaluate import evaluate, literal_address
from egress_router.policy.judge import Judge, denying
from tests.http_proxy.unit.strategies import CLIENTS, OWN, Request, parse, policy_texts, requests, section_texts
from tests.support.examples import examples


@examples(80)
@given(st.one_of(section_texts(), policy_texts()), st.lists(requests, min_size=3, max_size=8), st.sampled_from(CLIENTS))
def test_the_judge_is_the_reference(text: str, asked: list[Request], client: object) -> None:
    policy = parse(text)
    judge = Judge(policy, OWN)
    for who in CLIENTS[::2]:
        plain = for_client(policy, who)
        for host, addresses, port in asked:
            if literal_address(host) is not None:
                continue
            verdicts = judge.judge(who, host, port, addresses)
            expected = [evaluate(plain, host, port, (address,), OWN) for address in addresses]
            expected = expected or [evaluate(plain, host, port, (), OWN)]
            assert [(one.allowed, one.line and one.line.number) for one in verdicts] == [
                (one.allowed, one.line and one.line.number) for one in expected
            ], (text, who, host, addresses, port)
            whole = evaluate(plain, host, port, addresses, OWN)
            denied = denying(verdicts)
            assert (denied is None) == whole.allowed
            if denied:
                assert (denied.line and denied.line.number) == (whole.line and whole.line.number)
            early = judge.denied_by_name(who, host, port)
            assert early is None or not whole.allowed


def test_dns_is_not_asked_about_what_is_denied_by_name() -> None:
    judge = Judge(parse("www.a.com\n!*.b.com\n[from 10.1.0.0/16]\n192.0.2.0/24\n*.b.com"), OWN)
    inside, outside = CLIENTS[0], CLIENTS[5]
    assert judge.denied_by_name(outside, "www.a.com", 443) is None
    assert judge.denied_by_name(outside, "c.com", 443)
    assert judge.denied_by_name(outside, "x.b.com", 443)
    assert judge.denied_by_name(inside, "x.b.com", 443)
    # Its address might be allowed.
    assert judge.denied_by_name(inside, "c.com", 443) is None
