"""Destinations that are reached directly: which texts are taken, what becomes of them in decision, plan and rules."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_router.config.inputs import Problems
from egress_router.egressip.api import ClusterState, Disposition, HostSubnet, NetNamespace, Pod, except_network
from egress_router.egressip.assignment.decision import decide, decision_json, decision_text
from egress_router.egressip.assignment.explain import explain
from egress_router.egressip.node.nft_rules import INET, except_chain, node_tables
from egress_router.egressip.node.plan import PlanInputs, Planner, node_plan
from egress_router.egressip.node.state import Direct, NodeSettings, NodeState, Remote
from egress_router.egressip.source import api_objects
from egress_router.egressip.source.api_objects import Unusable
from egress_router.egressip.source.groups import ApiObjects, Grouping, LocalNode, cluster_state
from egress_router.egressip.source.objects import parse_cluster_state
from egress_router.net.nft.fake import FakeNft
from egress_router.net.nft.script import chain_changes, change_script, element_changes
from egress_router.net.nft.values import NftChain, NftTable

SETTINGS = NodeSettings("a", "eth0", ())
HERE, HERE6, ELSEWHERE, PLAIN = "198.51.100.2", "2001:db8:a::2", "198.51.100.40", "198.51.100.3"
STATE = ClusterState(
    {
        "p": NetNamespace("p", 1, ("192.0.2.45",), ("10.1.0.0/16", "2001:db8:1::/48", "10.0.0.0/8", "192.168.7.1/32")),
        "q": NetNamespace("q", 2, (), ("10.0.0.0/8",)),
    },
    {"a": HostSubnet("a", "192.0.2.1"), "b": HostSubnet("b", "192.0.2.2", egress_ips=("192.0.2.45",))},
    {
        ("p", "here"): Pod("p", "here", "a", (HERE, HERE6)),
        ("p", "there"): Pod("p", "there", "b", (ELSEWHERE,)),
        ("q", "here"): Pod("q", "here", "a", (PLAIN,)),
    },
)


@pytest.mark.parametrize(
    ("text", "network", "expected"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", ""),
        ("0.0.0.0/0", "0.0.0.0/0", ""),
        ("192.0.2.7/32", "192.0.2.7/32", ""),
        ("2001:DB8:0::/32", "2001:db8::/32", ""),
        ("::/0", "::/0", ""),
        ("10.1.2.3/8", "", "10.0.0.0/8"),
        ("2001:db8::1/64", "", "2001:db8::/64"),
        ("10.1.2.3", "", "10.1.2.3/32"),
        ("2001:db8::1", "", "2001:db8::1/128"),
        ("10.0.0.0/33", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("10.0.0.0/255.0.0.0", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("10.0.0/8", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("010.0.0.0/8", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("fe80::%eth0/64", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("fe80::1%eth0", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "", "the network of the IPv4 addresses themselves"),
        ("corp.example", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
        ("", "", "a network such as 192.0.2.0/24 or 2001:db8::/32"),
    ],
)
def test_which_texts_are_networks(text: str, network: str, expected: str) -> None:
    assert except_network(text) == (network, expected)


def test_a_file_says_what_would_be_right() -> None:
    def read(listed: str) -> tuple[ClusterState, list[str]]:
        problems = Problems()
        text = f"kind: NetNamespace\nmetadata: {{name: p}}\nnetid: 1\negressIPs: [192.0.2.45]\nexcept: {listed}\n"
        return parse_cluster_state({"p.yaml": text}, problems), list(map(str, problems.errors))

    state, problems = read("[10.0.0.0/8, '2001:DB8::/32', 10.0.0.0/8]")
    assert (state.namespaces["p"].excepted, problems) == (("10.0.0.0/8", "2001:db8::/32"), [])
    for listed, words in (
        ("[10.0.0.1/8]", "10.0.0.0/8"),
        ("[10.0.0.1]", "10.0.0.1/32"),
        ("10.0.0.0/8", "is not a list of texts"),
        ("[8]", "is not a list of texts"),
    ):
        state, problems = read(listed)
        assert not state.namespaces, "half an object would let out what it excepts, or keep in what it does not"
        assert "NetNamespace p: except" in problems[0]
        assert words in problems[0]


def egress_ip(name: str, destinations: object) -> api_objects.EgressIP:
    spec = {
        "egressIPs": ["192.0.2.45"],
        "namespaceSelector": {"matchLabels": {"env": "x"}},
        "destinations": destinations,
    }
    return api_objects.egress_ip({"metadata": {"name": name, "uid": name}, "spec": spec})


def test_an_egress_ip_brings_its_own() -> None:
    value = egress_ip("shop", {"except": ["10.0.0.0/8", "2001:db8::/32"]})
    assert value.excepted == ("10.0.0.0/8", "2001:db8::/32")
    empty: list[object] = [None, {}, {"except": None}, {"except": []}]
    for destinations in empty:
        assert egress_ip("shop", destinations).excepted == ()
    objects = ApiObjects({"shop": value})
    state = cluster_state(objects, Grouping().follow(objects), LocalNode("a", ("192.0.2.1",)))
    assert state.namespaces["shop"].excepted == value.excepted


@pytest.mark.parametrize(
    ("destinations", "words"),
    [
        ({"except": ["10.0.0.1/8"]}, "10.0.0.0/8"),
        ({"except": "10.0.0.0/8"}, "is not a list"),
        ({"except": [8]}, "10.0.0.0/8"),
        ({"only": ["10.0.0.0/8"]}, "spec.destinations is not understood"),
        (["10.0.0.0/8"], "spec.destinations is not understood"),
    ],
)
def test_an_egress_ip_that_says_something_else_cannot_be_used(destinations: object, words: str) -> None:
    """A later version's field may turn the meaning round."""
    with pytest.raises(Unusable, match=re.escape(words)):
        egress_ip("shop", destinations)


def test_what_an_object_that_cannot_be_used_selects_is_dropped() -> None:
    """A schema that is newer than the agent: its pods must not leave as if nobody had selected them."""
    with pytest.raises(Unusable) as raised:
        egress_ip("shop", {"only": ["10.0.0.0/8"]})
    assert isinstance(raised.value.instead, api_objects.EgressIP)
    namespace = api_objects.labelled({"metadata": {"name": "web", "uid": "web", "labels": {"env": "x"}}})
    pod = {"metadata": {"name": "p", "uid": "p", "namespace": "web"}, "spec": {"nodeName": "a"}}
    value = api_objects.pod({**pod, "status": {"podIP": HERE}})
    assert value is not None
    objects = ApiObjects({"shop": raised.value.instead}, namespaces={"web": namespace}, pods={"p": value})
    state = cluster_state(objects, Grouping().follow(objects), LocalNode("a", ("192.0.2.1",)))
    planned = plan("a", state)
    assert planned.paths == {HERE: Direct.NO_GATEWAY}
    assert planned.egress == {HERE}


def plan(me: str, state: ClusterState = STATE, held: tuple[str, ...] = ()) -> NodeState:
    return node_plan(me, state, decide(state), {"b": 1}, frozenset(held))


def test_the_decision_says_it_once() -> None:
    decision = decide(STATE)
    assert decision.namespaces["p"].excepted == ("10.0.0.0/8", "192.168.7.1/32", "2001:db8:1::/48")
    assert decision.namespaces["q"].disposition is Disposition.NORMAL
    assert decision.namespaces["q"].excepted == (), "everything is reached directly there"
    assert "    reached directly: 10.0.0.0/8, 192.168.7.1/32, 2001:db8:1::/48" in decision_text(decision).splitlines()
    assert '"except": [' in decision_json(decision)


def test_it_stands_where_the_pod_is_and_by_family() -> None:
    """A holder of another node's pods translates whatever comes by the tunnel."""
    assert plan("a").excepted == {HERE: ("10.0.0.0/8", "192.168.7.1/32"), HERE6: ("2001:db8:1::/48",)}
    assert plan("b", held=("192.0.2.45",)).excepted == {ELSEWHERE: ("10.0.0.0/8", "192.168.7.1/32")}


def test_it_holds_without_any_holder() -> None:
    state = replace(STATE, nodes={"a": STATE.nodes["a"]})
    assert plan("a", state).paths[HERE] is Direct.NO_GATEWAY
    assert plan("a", state).excepted == plan("a").excepted


def test_an_address_of_two_pods_reaches_nothing() -> None:
    rival = Pod("q", "rival", "a", (HERE,))
    doubled = plan("a", replace(STATE, pods={**STATE.pods, ("q", "rival"): rival}))
    assert doubled.paths[HERE] is Direct.NO_GATEWAY
    assert doubled.excepted == {HERE6: ("2001:db8:1::/48",)}


def test_why_a_destination_is_reached_as_it_is() -> None:
    decision = decide(STATE)
    for namespace, address, words in (
        ("p", "10.7.7.7", "directly, with the address that the container network gives: 10.0.0.0/8 is excepted"),
        ("p", "203.0.113.7", "with 192.0.2.45 on b"),
        ("p", "2001:db8:1::7", "2001:db8:1::/48 is excepted"),
        ("p", "2001:db8:2::7", "dropped: the namespace has no usable egress IP of IPv6"),
        ("q", "10.7.7.7", "the namespace has no egress IPs"),
        ("lost", "10.7.7.7", "dropped: no object tells of the namespace"),
    ):
        assert words in explain(decision, namespace, ip_address(address))[0]


# whenUnavailable: NodeIP is that everything is reached directly, as long as there is no usable address of the family


def unavailable(**nodes: HostSubnet) -> ClusterState:
    space = NetNamespace("p", 1, ("192.0.2.45", "2001:db8:2::45"), ("10.0.0.0/8",), node_ip=True)
    return replace(STATE, namespaces={**STATE.namespaces, "p": space}, nodes={**STATE.nodes, **nodes})


def test_without_a_usable_address_a_family_leaves_with_that_of_the_node() -> None:
    state = unavailable()
    assert plan("a", state).excepted == {HERE: ("10.0.0.0/8",), HERE6: ("::/0",)}, "IPv4 has one"
    nobody = replace(state, nodes={"a": state.nodes["a"]})
    assert plan("a", nobody).excepted == {HERE: ("0.0.0.0/0",), HERE6: ("::/0",)}
    assert plan("a", nobody).paths[HERE] is Direct.NO_GATEWAY, "what has no holder any more is not let out"
    assert HERE in plan("a", nobody).egress
    decision = decide(nobody)
    assert "leaves with the address of the pod's node (whenUnavailable: NodeIP)" in decision_text(decision)
    assert '"whenUnavailable": "NodeIP"' in decision_json(decision)
    assert "whenUnavailable is NodeIP" in explain(decision, "p", ip_address("203.0.113.7"))[0]


def test_the_figures_count_pods_by_what_they_really_do() -> None:
    nobody = plan("a", replace(unavailable(), nodes={"a": STATE.nodes["a"]}))
    assert {ip: nobody.way(ip) for ip in nobody.paths} == {HERE: "normal", HERE6: "normal", PLAIN: "normal"}
    usual = plan("a", replace(STATE, nodes={"a": STATE.nodes["a"]}))
    assert usual.way(HERE) == "drop", "some destinations are excepted, not all"
    assert plan("a").way(HERE) == "through"


def test_before_it_is_known_who_is_up_nothing_leaves() -> None:
    nobody = replace(unavailable(), nodes={"a": STATE.nodes["a"]})
    inputs = PlanInputs("a", nobody.namespaces, nobody.nodes, decide(nobody), {}, frozenset(), settled=False)
    begun = Planner().plan(inputs, nobody.pods, frozenset(), {})
    assert begun.excepted == {HERE: ("10.0.0.0/8",)}
    assert begun.paths[HERE6] is Direct.NO_GATEWAY


def test_a_holder_that_has_not_confirmed_whose_address_it_is_is_waited_for() -> None:
    """The egress IP is there: for the moment until its holder has heard of the pod, no other address is used."""
    state = unavailable()
    decision = decide(state)

    def excepted(slots: dict[str, int], pending: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
        doubted = node_plan("a", state, decision, slots, frozenset(), pending=pending, unconfirmed={HERE: {"b"}})
        assert doubted.paths[HERE] is Direct.NO_GATEWAY
        return dict(doubted.excepted)

    assert plan("a", state).paths[HERE] == Remote(1), "positive control: it leaves by the holder"
    assert excepted({"b": 1}) == {HERE: ("10.0.0.0/8",), HERE6: ("::/0",)}, "no node has an address of IPv6"
    assert excepted({})[HERE] == ("0.0.0.0/0",), "one that is down confirms nothing, and is not waited for"
    assert excepted({"b": 1}, ("192.0.2.45",))[HERE] == ("0.0.0.0/0",), "nor is one that does not have the address"
    inputs = PlanInputs("a", state.namespaces, state.nodes, decision, {"b": 1}, frozenset())
    doubting = replace(inputs, unconfirmed={HERE: frozenset("b")})
    for silent, network in (("", "10.0.0.0/8"), ("b", "0.0.0.0/0")):
        planned = Planner().plan(replace(doubting, silent=frozenset(silent)), state.pods, frozenset(), {"b": 1})
        assert planned.excepted[HERE] == (network,), "an agent that says nothing is not waited for"


def test_an_address_of_two_pods_leaves_with_no_address() -> None:
    nobody = replace(unavailable(), nodes={"a": STATE.nodes["a"]})
    doubled = replace(nobody, pods={**nobody.pods, ("q", "rival"): Pod("q", "rival", "a", (HERE,))})
    assert plan("a", doubled).excepted == {HERE6: ("::/0",)}


@pytest.mark.parametrize(("word", "expected"), [("NodeIP", True), ("Drop", False), (None, False)])
def test_the_words_of_when_unavailable(word: str | None, expected: bool) -> None:
    spec = {"egressIPs": ["192.0.2.45"], "namespaceSelector": {"matchLabels": {"env": "x"}}, "whenUnavailable": word}
    assert api_objects.egress_ip({"metadata": {"name": "x", "uid": "x"}, "spec": spec}).node_ip is expected
    line = f"whenUnavailable: {word}\n" if word else ""
    text = f"kind: NetNamespace\nmetadata: {{name: p}}\nnetid: 1\negressIPs: [192.0.2.45]\n{line}"
    assert parse_cluster_state({"p.yaml": text}, Problems()).namespaces["p"].node_ip is expected


def test_other_words_of_when_unavailable_are_refused() -> None:
    spec = {"egressIPs": ["192.0.2.45"], "namespaceSelector": {"matchLabels": {"env": "x"}}, "whenUnavailable": "Node"}
    with pytest.raises(Unusable, match="Drop or NodeIP"):
        api_objects.egress_ip({"metadata": {"name": "x", "uid": "x"}, "spec": spec})
    problems = Problems()
    text = "kind: NetNamespace\nmetadata: {name: p}\nnetid: 1\nwhenUnavailable: nodeip\n"
    assert not parse_cluster_state({"p.yaml": text}, problems).namespaces
    assert "Drop or NodeIP" in str(problems.errors[0])


# Rules

networks4 = st.builds(
    lambda number, length: str(IPv4Network((number, length), strict=False)),
    st.integers(0, 2**32 - 1),
    st.one_of(st.integers(0, 32), st.sampled_from([8, 24, 32])),
)
lists4 = st.lists(networks4, min_size=1, max_size=5).map(tuple)


def state_with(networks: tuple[str, ...]) -> NodeState:
    space = replace(STATE.namespaces["p"], excepted=networks)
    return plan("a", replace(STATE, namespaces={**STATE.namespaces, "p": space}))


def accepted_by(chain: NftChain, destination: str) -> bool:
    """Read a chain's only rule as nft does."""
    (rule,) = chain.rules
    if rule == "accept":
        return True
    found = re.fullmatch(r"ip daddr (?:\{ (.+) \}|(\S+)) accept", rule)
    assert found, rule
    return any(ip_address(destination) in ip_network(text) for text in (found[1] or found[2]).split(", "))


@given(lists4, st.integers(0, 2**32 - 1), st.data())
def test_the_rules_accept_exactly_what_is_excepted(networks: tuple[str, ...], number: int, data: st.DataObject) -> None:
    near = ip_network(data.draw(st.sampled_from(networks)))
    edges = [int(near[0]), int(near[-1]), int(near[0]) - 1, int(near[-1]) + 1, number]
    table = node_tables(SETTINGS, state_with(networks), 1450)[0]
    (item,) = [item for item in table.sets if item.name == "excepted4"]
    assert item.elements.keys() == {HERE}
    word, name = str(item.elements[HERE]).split()
    assert word == "jump", "what is not accepted there must go on to the next rule"
    (chain,) = [chain for chain in table.chains if chain.name == name]
    for edge in edges:
        if 0 <= edge < 2**32:
            wanted = any(IPv4Address(edge) in ip_network(text) for text in networks)
            assert accepted_by(chain, str(IPv4Address(edge))) is wanted


@given(st.lists(st.one_of(st.just(()), lists4), min_size=2, max_size=4))
def test_any_change_is_one_of_elements_and_chains_that_never_change(steps: list[tuple[str, ...]]) -> None:
    """So it is one transaction, and at no moment a chain holds half of a list."""
    tables = [node_tables(SETTINGS, state_with(step), 1450) for step in steps]
    nft = FakeNft()
    nft.put(tables[0])
    for old, new in pairwise(tables):
        nft.change(old, new)
        assert nft.difference(new) == []
        known = {chain.name: chain for chain in old[0].chains}
        assert all(known.get(chain.name, chain) == chain for chain in new[0].chains)
        elements = element_changes(old[0], new[0])
        assert elements is not None
        lines = change_script(elements, INET, chain_changes(old[0], new[0])).splitlines()
        made = [line for line in lines if line.startswith("add rule")]
        assert lines.index(made[0]) < lines.index(next(x for x in lines if "add element" in x)) if made else True


#: Where a packet of a local pod is led, translated or dropped for its source: chain → what is decided there.
JUDGED = {
    "restore_path{v}": "vmap @path{v}",
    "drop_to_outside": "counter name no_connection drop",
    "tunnel_zone{v}": "ct original zone set",
    "translate": "snat ip{s} to ip{s} saddr map @snat{v}",
    "verify_source{v}": "counter name wrong_source drop",
}


@pytest.mark.parametrize("version", [4, 6])
def test_the_destination_is_looked_at_before_anything_is_decided(version: int) -> None:
    table: NftTable = node_tables(SETTINGS, plan("a"), 1450)[0]
    chains = {chain.name: chain.rules for chain in table.chains}
    for name, words in JUDGED.items():
        rules = chains[name.format(v=version)]
        wanted = words.format(v=version, s="6" if version == 6 else "")
        decided = next(place for place, rule in enumerate(rules) if wanted in rule)
        looked = next(place for place, rule in enumerate(rules) if f"vmap @excepted{version}" in rule)
        assert looked < decided, name
    datagrams, unmarked = [rule for rule in chains[f"restore_path{version}"] if "@excepted" in rule]
    assert datagrams.startswith("meta l4proto != { tcp, sctp, dccp } ")
    assert unmarked.startswith("ct mark & 0xf0000000 != 0x20000000 "), "one whose holder is gone has the pod's source"
    known = chains["known_connection"]
    looked = next(place for place, rule in enumerate(known) if f"vmap @excepted{version}" in rule)
    in_zone, without = [place for place, rule in enumerate(known) if "vmap @undrained_paths" in rule]
    assert looked < without
    assert known[in_zone].startswith("ct original zone 14700 "), "which has none of what is excepted"
    assert known.index("meta l4proto { tcp, sctp, dccp } goto known_connected") < looked, "they keep their holder"
    assert "vmap @known_paths" in "".join(chains["known_connected"])
    # A connection that a helper expects has the mark of its master, and may come from outside.
    ip = "ip6" if version == 6 else "ip"
    expected = known.index(f"ct status expected {ip} saddr != @local_pods{version} return")
    assert expected < min(place for place, rule in enumerate(known) if "goto" in rule or "vmap" in rule)


def test_the_same_networks_have_one_chain() -> None:
    pods = {("p", f"n{n}"): Pod("p", f"n{n}", "a", (f"198.51.100.{n}",)) for n in range(10, 60)}
    table = node_tables(SETTINGS, plan("a", replace(STATE, pods=pods)), 1450)[0]
    assert [chain.name for chain in table.chains if chain.name.startswith("except_")] == [
        except_chain(("10.0.0.0/8", "192.168.7.1/32"))
    ]
