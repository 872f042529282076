"""Where connections by name go: the policy, the names' addresses and what the log says of it, in a real event loop."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.values import Address, Family, HostName
from egress_router.dns.cache import Answer as DnsAnswer
from egress_router.dns.cache import CandidateReplies, NegativeAnswer, Reply
from egress_router.dns_proxy.by_name.addresses import NameAddresses
from egress_router.dns_proxy.by_name.reach import Reach
from egress_router.dns_proxy.by_name.router import Answer, NameRouter
from egress_router.policy.judge import Judge
from egress_router.policy.parse import parse_policy

CLIENT = ip_address("10.1.2.3")


class Names:
    """A resolver that knows some names, and counts."""

    def __init__(self, known: Mapping[str, Sequence[str]], ttl: float = 60.0) -> None:
        self.known, self.ttl = known, ttl
        self.asked: list[str] = []

    async def resolve(self, name: HostName, families: Sequence[Family]) -> list[CandidateReplies]:
        self.asked.append(str(name))
        await asyncio.sleep(0)
        addresses = [ip_address(text) for text in self.known.get(name.text.removesuffix("."), ())]
        replies: dict[Family, Reply] = {}
        for family in families:
            mine: frozenset[Address] = frozenset(one for one in addresses if one.version == family.value)
            replies[family] = DnsAnswer(mine, self.ttl) if mine else NegativeAnswer("does not exist")
        return [CandidateReplies(str(name), replies)]


def judge(text: str) -> Judge:
    problems = Problems()
    policy = parse_policy(Inputs({"EGRESS_HTTP_PROXY_DESTINATION": text}), problems)
    problems.raise_if_any()
    assert policy
    return Judge(policy, [ip_address("198.51.100.9")])


def answers(names: Names, text: str, *asked: bytes, kind: str = "tls") -> list[Answer]:
    async def work() -> list[Answer]:
        router = NameRouter(NameAddresses(names, [Family.IPV4]), Reach({}))  # type: ignore[arg-type]
        return [await router.answer(kind, CLIENT, 443, one, judge(text)) for one in asked]

    return asyncio.run(work())


def test_where_connections_go() -> None:
    names = Names({"a.com": ["192.0.2.1"], "own.com": ["198.51.100.9"], "loop.com": ["127.0.0.1", "192.0.2.1"]})
    asked = [b"A.com", b"b.org", b"own.com", b"loop.com", b"nx.com", b"10.0.0.1"]
    found = answers(names, "*.com\n!b.org", *asked)
    assert [(str(one.address), one.status) for one in found] == [
        ("192.0.2.1", 200),
        *[("None", 403)] * 3,
        ("None", 503),
        ("None", 400),
    ]
    assert [(one.record["host"], one.record["decision"], one.record["line"]) for one in found] == [
        ("a.com", "allow", 1),
        ("b.org", "deny", 2),
        ("own.com", "deny", None),
        ("loop.com", "deny", None),
        ("nx.com", "allow", 1),
        ("10.0.0.1", "invalid", None),
    ]
    assert (found[4].record["error"], found[4].record["detail"]) == ("dns", "nx.com. does not exist")
    # What is denied by its name is nobody's question to DNS.
    assert "b.org." not in names.asked


def test_answers_are_kept_for_their_time_to_live() -> None:
    names = Names({"a.com": ["192.0.2.1"]})
    answers(names, "*", *[b"a.com"] * 5)
    assert names.asked == ["a.com."]
    names = Names({"a.com": ["192.0.2.1"]}, ttl=0)

    async def slowly() -> None:
        addresses = NameAddresses(names, [Family.IPV4])  # type: ignore[arg-type]
        await asyncio.gather(*(addresses.look_up("a.com") for _ in range(20)))
        assert names.asked == ["a.com."], "those who ask at the same time wait for one answer"

    asyncio.run(slowly())


def test_the_answer_has_nothing_of_the_clients_in_it() -> None:
    evil = b'a.com","line":1,"x":"\n\x1b[31m'
    (answer,) = answers(Names({}), "*", evil)
    address, status, said = answer.line().decode().split()
    assert (address, status) == ("-", "400")
    assert json.loads(base64.b64decode(said))["decision"] == "invalid"
    assert "\n" not in json.loads(base64.b64decode(said))["host"]
