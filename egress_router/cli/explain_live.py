"""``egress-router explain --live``: what the pod's resolver says about a name, and what happens with each address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from egress_router.config.values import Address, Family, HostName, NameServer, family_of
from egress_router.dns.cache import Answer, CandidateReplies, Failure, NegativeAnswer
from egress_router.dns.resolver import Resolver
from egress_router.dns.usable import Usable, families_with_a_route
from egress_router.dns_proxy.destinations import DnsProxyConfig
from egress_router.http_proxy.explain import explain_http
from egress_router.http_proxy.settings import HttpSettings
from egress_router.http_proxy.targets import Target
from egress_router.net.rtnetlink.kernel import own_addresses
from egress_router.policy.values import Policy
from egress_router.redirect.sources import cluster_networks

Live = tuple[dict[str, object], str]


def live_http(policy: Policy, asked: Target, settings: HttpSettings, nameservers: Sequence[NameServer] = ()) -> Live:
    """Return what a proxy with a policy would do with a name now, and why, with each of its addresses."""
    families = [family_of(source) for source in settings.sources] or families_with_a_route()
    # As Squid asks: for the name as it is.
    replies = asyncio.run(Resolver(nameservers).resolve(HostName(f"{asked.host}."), families))
    own, cluster = own_addresses(), cluster_networks()
    addresses = _addresses(replies)
    decided = explain_http(policy, asked, addresses, settings, own, cluster)
    each = {str(one): explain_http(policy, asked, [one], settings, own, cluster) for one in addresses}
    if addresses:
        text = f"  now {'allowed' if decided.allowed else 'denied'}: {decided.text}\n"
    else:
        text = "  now it has no address that counts" + (": 503\n" if decided.allowed else "\n")
    text += _told(replies) + "".join(f"  {one}: {explanation.text}\n" for one, explanation in each.items())
    row: dict[str, object] = {
        "decision": "allowed" if decided.allowed else "denied",
        "replies": _values(replies),
        "addresses": {one: explanation.text for one, explanation in each.items()},
    }
    return row, text.rstrip("\n")


def live_dns(config: DnsProxyConfig, name: HostName) -> Live:
    """Return which addresses the DNS proxy would use for a name now, and why not the others."""
    families = sorted(config.sources) or families_with_a_route()
    replies = asyncio.run(Resolver(config.nameservers).resolve(name, families))
    usable = Usable(cluster_networks())
    verdicts = {str(address): usable(address) for address in _addresses(replies)}
    lines = [f"  {address}: {f'not used: it is {why}' if why else 'used'}\n" for address, why in verdicts.items()]
    return {"replies": _values(replies), "addresses": verdicts}, (_told(replies) + "".join(lines)).rstrip("\n")


def _addresses(replies: Sequence[CandidateReplies]) -> list[Address]:
    found = {
        address
        for one in replies[-1:]
        for reply in one.replies.values()
        if isinstance(reply, Answer)
        for address in reply.addresses
    }
    return sorted(found, key=lambda address: (address.version, int(address)))


def _reply(family: Family, reply: Answer | NegativeAnswer | Failure) -> str:
    if isinstance(reply, Answer):
        count = len(reply.addresses)
        return f"{count} {family} address{'' if count == 1 else 'es'}, good for {reply.ttl:.0f} s"
    return reply.why


def _told(replies: Sequence[CandidateReplies]) -> str:
    lines = []
    for one in replies:
        words = dict.fromkeys(_reply(family, reply) for family, reply in one.replies.items())
        lines.append(f"  {one.candidate} {'; '.join(words)}\n")
    return "".join(lines)


def _values(replies: Sequence[CandidateReplies]) -> dict[str, dict[str, str]]:
    return {
        one.candidate: {str(family): _reply(family, reply) for family, reply in one.replies.items()} for one in replies
    }
