"""Probes of many nodes from one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from lab import Lab

pytestmark = pytest.mark.root

SCRIPT = """
    import threading, time
    from egress_router.net.icmp_probe import Prober

    rounds = []
    prober = Prober("0.0.0.0", 4791, 0.5, lambda answers: rounds.append(sum(a.echo for a in answers.values())))
    names = {f"n{n}": f"127.1.{n >> 8}.{n & 255}" for n in range(1, 1001)}
    prober.set_targets(names, frozenset(), frozenset())
    threading.Thread(target=prober.run).start()
    time.sleep(2.8)
    prober.stop()
    print(max(rounds))
"""


def test_the_answers_of_a_thousand_nodes_all_count(make_lab: Callable[..., Lab]) -> None:
    """They come in a burst, which the default buffer of a socket does not hold."""
    node = make_lab().nodes[0]
    assert node.run([sys.executable, "-c", dedent(SCRIPT)], timeout=30).stdout.split() == ["1000"]


SIGNED = """
    import sys, threading, time
    from pathlib import Path
    from egress_router.net.icmp_probe import Prober
    from egress_router.net.signed_messages import Signatures

    keys = Path(sys.argv[1])
    heard = {}

    def told(name):
        return lambda answers: heard.setdefault(name, []).append(dict(answers))

    def payload(pods):
        return {"ready": True, "draining": False, "lacks": []}

    names = {"living": "127.0.0.1", "silent": "127.0.0.2"}
    living = Prober("127.0.0.1", 4791, 0.1, told("living"), payload, Signatures(keys))
    agent = Prober("127.0.0.3", 4791, 0.1, told("agent"), payload, Signatures(keys))
    controller = Prober("0.0.0.0", 4791, 0.1, told("controller"), signatures=Signatures(keys))
    living.set_peers({"127.0.0.3"})
    for asks in (agent, controller):
        asks.set_targets(names, frozenset({"living"}), frozenset())
    # Who is at the address of the silent node hears the questions, and has them answered by the living one.
    import socket
    thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    thief.bind(("127.0.0.2", 4791))

    def pretend():
        while True:
            question, asker = thief.recvfrom(8192)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as relay:
                relay.bind(("127.0.0.2", 0))
                relay.settimeout(0.05)
                relay.sendto(question, ("127.0.0.1", 4791))
                try:
                    thief.sendto(relay.recv(8192), asker)
                except TimeoutError:
                    pass

    threading.Thread(target=pretend, daemon=True).start()
    for prober in (living, agent, controller):
        threading.Thread(target=prober.run).start()
    time.sleep(1.5)
    print(living.users(5), *(
        f"{who}:{node}:{any(answers[node].ready for answers in heard[who])}"
        for who in ("agent", "controller") for node in names
    ))
    for prober in (living, agent, controller):
        prober.stop()
"""


@pytest.mark.parametrize(("keys", "believed"), [("k" * 32, False), ("unsigned\n" + "k" * 32, True)])
def test_a_living_node_does_not_speak_for_a_silent_one(
    make_lab: Callable[..., Lab], tmp_path: Path, keys: str, believed: bool
) -> None:
    """Whoever takes the silent one's address and passes on what the living one says."""
    (tmp_path / "keys").write_text(keys)
    node = make_lab().nodes[0]
    said = node.run([sys.executable, "-c", dedent(SIGNED), str(tmp_path / "keys")], timeout=30).stdout.strip()
    of_silent = f"agent:silent:{believed} controller:living:True controller:silent:{believed}"
    assert said == f"['127.0.0.3'] agent:living:True {of_silent}"


STARTS = """
    import sys, threading, time
    from pathlib import Path
    from egress_router.net.icmp_probe import Prober
    from egress_router.net.signed_messages import Signatures

    keys = [Signatures(Path(name)) for name in sys.argv[1:]] or [None] * 3
    known, heard, translated = {}, [], []

    def told(ip, pods):
        heard.append((ip, dict(pods)))
        if len(heard) == 3:
            known.update({pod: "192.0.2.45" for pod in pods})

    def payload(pods):
        return {"ready": True, "lacks": [], "takes": True, "pods": {pod: known.get(pod, "") for pod in pods}}

    rounds = []
    holder = Prober("127.0.0.1", 4791, 0.1, lambda _: None, payload, keys[0], heard_pods=told)
    holder.set_peers({"127.0.0.3"})
    asks = Prober("127.0.0.3", 4791, 0.1, rounds.append, payload, keys[1], translated=translated.extend)
    stranger = Prober("127.0.0.4", 4791, 0.1, lambda _: None, payload, keys[2])
    asks.set_targets({"holder": "127.0.0.1"}, frozenset(), frozenset())
    for prober in (holder, asks, stranger):
        threading.Thread(target=prober.run).start()
    time.sleep(0.3)
    began = time.monotonic()
    stranger.tell({"127.0.0.1": {"10.0.0.1": "shop uid"}})
    asks.tell({"127.0.0.1": {"10.0.0.9": "shop uid"}})
    while not translated and time.monotonic() < began + 2:
        time.sleep(0.001)
    took = time.monotonic() - began
    count = len(heard)
    time.sleep(0.3)
    print(set(ip for ip, _ in heard), translated, took < 0.1, len(heard) - count, rounds[-1]["holder"].takes_pods)
    for prober in (holder, asks, stranger):
        prober.stop()
"""


@pytest.mark.parametrize(
    "others", [None, "k" * 32, "z" * 32, "unsigned\n" + "k" * 32], ids=["no", "ours", "theirs", "mixed"]
)
def test_a_node_is_told_of_pods_at_once_and_until_it_translates_them(
    make_lab: Callable[..., Lab], tmp_path: Path, others: str | None
) -> None:
    """Only by nodes, and where the holder has keys only by who has them, too."""
    files = []
    if others is not None:
        for name, text in (("holder", "k" * 32), ("asks", others), ("stranger", others)):
            (tmp_path / name).write_text(text)
            files.append(str(tmp_path / name))
    node = make_lab().nodes[0]
    said = node.run([sys.executable, "-c", dedent(STARTS), *files], timeout=30).stdout.strip()
    if others in (None, "k" * 32):
        assert said == "{'127.0.0.3'} ['10.0.0.9'] True 0 True"
    else:
        assert said.startswith("set() [] False 0"), "not signed as the holder wants it"


ASK_NOW = """
    import sys, threading, time
    from pathlib import Path
    from egress_router.net.icmp_probe import Prober
    from egress_router.net.signed_messages import Signatures

    keys = [Signatures(Path(name)) for name in sys.argv[1:]] or [None] * 3
    known, replied = {}, []

    def payload(pods):
        return {"ready": True, "lacks": [], "pods": {pod: known.get(pod, "") for pod in pods}}

    def heard(name, reply):
        replied.append((time.monotonic(), name, dict(reply.sources)))

    pods = [f"10.0.0.{number}" for number in range(1, 46)]
    standby = Prober("127.0.0.1", 4791, 5.0, lambda _: None, payload, keys[0])
    asks = Prober("127.0.0.3", 4791, 5.0, lambda _: None, payload, keys[1], replied=heard)
    stranger = Prober("127.0.0.4", 4791, 5.0, lambda _: None, payload, keys[2])
    asks.set_peers({"127.0.0.1"})
    asks.set_targets({"standby": "127.0.0.1"}, frozenset(), frozenset(), {"standby": pods})
    for prober in (standby, asks, stranger):
        threading.Thread(target=prober.run).start()
    time.sleep(0.5)
    first = len(replied)
    stranger.have_asked(["127.0.0.3"])
    time.sleep(0.3)
    known.update({pod: "192.0.2.45" for pod in pods})
    began = time.monotonic()
    standby.have_asked(["127.0.0.3"])
    time.sleep(0.5)
    took = max((at - began for at, *_ in replied), default=9)
    told = {pod for _, name, sources in replied for pod, ip in sources.items() if ip and name == "standby"}
    print(first, len(replied), took < 0.3, len(told))
    for prober in (standby, asks, stranger):
        prober.stop()
"""


@pytest.mark.parametrize("others", [None, "k" * 32, "z" * 32], ids=["no", "ours", "theirs"])
def test_a_node_that_says_so_is_asked_about_pods_at_once(
    make_lab: Callable[..., Lab], tmp_path: Path, others: str | None
) -> None:
    """Not in the next round, and not for a stranger, nor for one who signs with other keys."""
    files = []
    if others is not None:
        for name, text in (("standby", others), ("asks", "k" * 32), ("stranger", "k" * 32)):
            (tmp_path / name).write_text(text)
            files.append(str(tmp_path / name))
    node = make_lab().nodes[0]
    said = node.run([sys.executable, "-c", dedent(ASK_NOW), *files], timeout=30).stdout.strip()
    # Twenty pods a message.
    assert said == ("0 0 False 0" if others == "z" * 32 else "3 6 True 45")


USERS = """
import json
import socket
import threading
import time
from egress_router.net import icmp_probe

icmp_probe._REMEMBERED_SECONDS = 1.0
living = icmp_probe.Prober("127.0.0.1", 4791, 0.1, lambda _: None, lambda pods: {"ready": True})
living.set_peers({"127.0.1.1", "127.0.1.2", "127.0.1.3"})
threading.Thread(target=living.run, daemon=True).start()

def ask(ip, uses=True):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind((ip, 0))
        asker.settimeout(5)
        asker.sendto(json.dumps({"ask": 1, "uses": uses}).encode(), ("127.0.0.1", 4791))
        asker.recv(8192)

def known():
    return [ip[-1] for ip in living.users(600)], len(living._users)

for number in range(1, 255):
    ask(f"127.0.2.{number}")
print("strangers", known())
for number in 1, 2, 3:
    ask(f"127.0.1.{number}")
print("peers", known())
ask("127.0.1.2", uses=False)
print("no use", known())
time.sleep(1.2)
ask("127.0.1.3")
print("once", known())
living.set_peers({"127.0.1.1"})
print("no peer", known())
living.stop()
"""


def test_who_only_once_asked_is_forgotten(make_lab: Callable[..., Lab]) -> None:
    """Nobody who is no peer is remembered at all, and of a peer no longer than it goes on asking."""
    node = make_lab().nodes[0]
    said = node.run([sys.executable, "-c", USERS], timeout=60).stdout.splitlines()
    assert said == [
        "strangers ([], 0)",
        "peers (['1', '2', '3'], 3)",
        "no use (['1', '3'], 2)",
        "once (['3'], 1)",
        "no peer ([], 0)",
    ]


MANY = """
import threading
import time
from egress_router.net import icmp_probe

icmp_probe.MOST_ECHOES = 80
rounds = []
living = icmp_probe.Prober("127.0.0.1", 4791, 0.1, lambda _: None, lambda pods: {"ready": True})
living.set_peers({"127.0.0.3"})
asks = icmp_probe.Prober(
    "127.0.0.3", 4791, 0.1, lambda _: rounds.append(time.monotonic()), lambda pods: {"ready": True}
)
targets = {f"n{number}": f"127.1.0.{number}" for number in range(1, 20)} | {"living": "127.0.0.1"}
for prober in (living, asks):
    threading.Thread(target=prober.run, daemon=True).start()
asks.set_targets(targets, frozenset(targets), frozenset(targets))
time.sleep(2.5)
spent = rounds[-1] - rounds[-4]
print("asked", round(spent / 3, 1), round(asks.round_seconds(), 1), living.listening(0.3), living.users(0.1))
asks.set_targets({"living": "127.0.0.1"}, frozenset({"living"}), frozenset())
time.sleep(1)
print("asked", round(rounds[-1] - rounds[-2], 1), asks.round_seconds(), living.listening(0.3))
for prober in (living, asks):
    prober.stop()
"""


def test_who_probes_many_takes_longer_rounds_and_those_he_uses_know(make_lab: Callable[..., Lab]) -> None:
    """A node that is drained must not take one that asks seldom for one that has gone."""
    done = make_lab().nodes[0].run([sys.executable, "-c", MANY], timeout=30)
    assert done.stdout.splitlines() == ["asked 0.5 0.5 4.5 ['127.0.0.3']", "asked 0.1 0.1 0.3"]


TUNNEL_KEYS = """
import json
import socket
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path
from egress_router.net.icmp_probe import Prober
from egress_router.net.signed_messages import Signatures

file = Path(sys.argv[1])
own, other, third, forged = (b64encode(bytes([number] * 32)).decode() for number in range(1, 5))
heard = []

def payload(pods):
    return {"ready": True, "draining": False, "lacks": []}

def prober(ip, key, note=None):
    return Prober(ip, 4791, 0.1, lambda _: None, payload, Signatures(file), key, note)

node = prober("127.0.0.1", own, lambda ip, key: heard.append((ip, key)))
asks, stranger = prober("127.0.0.2", other), prober("127.0.0.3", third)
node.set_peers({"127.0.0.2", "127.0.0.4"})
for one in (asks, stranger):
    one.set_targets({"node": "127.0.0.1"}, frozenset(), frozenset())
for one in (node, asks, stranger):
    threading.Thread(target=one.run, daemon=True).start()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsigned:
    unsigned.bind(("127.0.0.4", 0))
    unsigned.settimeout(5)
    unsigned.sendto(json.dumps({"ask": 1, "uses": True, "key": forged}).encode(), ("127.0.0.1", 4791))
    answered = bool(unsigned.recv(8192))
time.sleep(1)
print(answered, heard == [("127.0.0.2", other)], heard)
for one in (node, asks, stranger):
    one.stop()
"""


def test_keys_of_the_tunnel_are_believed_of_nodes_alone_and_when_they_are_signed(
    make_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    """Also while messages without a signature are taken, and once however often they are told."""
    (tmp_path / "keys").write_text("k" * 32 + "\nunsigned")
    done = make_lab().nodes[0].run([sys.executable, "-c", TUNNEL_KEYS, str(tmp_path / "keys")], timeout=30)
    assert done.stdout.startswith("True True"), done.stdout


FIGURES = """
import threading
import time
from egress_router.egressip.node_figures import NodeFigures
from egress_router.net import icmp_probe
from egress_router.net.agent_figures import as_message, parts_of

icmp_probe.FIGURES_SECONDS = 0.8
told = {f"192.0.2.{n}": n for n in range(1, 46)}
asked = []

def figures(part):
    asked.append(part)
    return as_message(parts_of("0.1.0", told, {}, {"no_way": 3}, {})[part])

def controller(ip, address, rounds):
    known = NodeFigures()
    counted = []
    def report(answers):
        if answers[ip].figures:
            known.take(answers[ip].figures, 1.0)
        counted.append(answers[ip].pending is not None)
    prober = icmp_probe.Prober(address, 4791, 0.1, report)
    prober.set_targets({ip: ip}, frozenset(), frozenset({ip}))
    threading.Thread(target=prober.run).start()
    while len(counted) < rounds:
        time.sleep(0.01)
    prober.stop()
    return known, any(counted)

answers = lambda pods: {"ready": True, "lacks": []}
agent = icmp_probe.Prober("127.0.0.1", 4791, 0.1, lambda _: None, answers, figures=figures)
agent.set_peers({"127.0.1.1"})
threading.Thread(target=agent.run, daemon=True).start()
known, heard = controller("127.0.0.1", "127.0.1.1", 45)
print("from a node", heard, len(known.connections), dict(known.drops), len(asked) - len(asked) % 3, asked[:6])
asked.clear()
known, heard = controller("127.0.0.1", "127.0.1.9", 10)
print("from elsewhere", heard, len(known.connections), asked)
agent.stop()
"""


def test_a_controller_hears_all_figures_a_part_at_a_time(make_lab: Callable[..., Lab]) -> None:
    """From the address of a node, and no more often than it wants them; elsewhere only that the agent is there."""
    node = make_lab().nodes[0]
    said = node.run([sys.executable, "-c", FIGURES], timeout=60).stdout.splitlines()
    # 4.5 s: a part in every third round of 0.1 s, all three in 0.9 s, a pause of 0.8 s, and so on.
    assert said == [
        "from a node True 45 {'no_way': 3} 9 [0, 1, 2, 0, 1, 2]",
        "from elsewhere True 0 []",
    ]


AGAIN = """
import subprocess
import threading
import time
from egress_router.net.icmp_probe import Prober

INTERVAL, MISSES = 1.0, 4
told = []

def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

def asked():
    text = subprocess.run(["nft", "list", "counter", "inet", "t", "asked"], capture_output=True, text=True).stdout
    return int(text.split("packets ")[1].split()[0])

def report(answers):
    told.extend((name, answer.echo, time.monotonic()) for name, answer in answers.items())

nft('''table inet t {
    counter asked { }
    chain out {
        type filter hook output priority 0;
        icmp type echo-request ip daddr 127.0.0.2 counter name asked
        icmp type echo-reply ip saddr 127.0.0.4 drop
    }
}''')
prober = Prober("127.0.0.1", 4791, INTERVAL, report, misses=MISSES)
prober.set_targets({"dies": "127.0.0.2", "lives": "127.0.0.3", "never": "127.0.0.4"}, frozenset(), frozenset())
threading.Thread(target=prober.run, daemon=True).start()
time.sleep(2.5 * INTERVAL)
print("alive", {name: {echo for one, echo, _ in told if one == name} for name in ("dies", "lives", "never")})
cut = len(told)
before = asked()
nft('add rule inet t out icmp type echo-reply ip saddr 127.0.0.2 drop')
time.sleep(4.5 * INTERVAL)
prober.stop()
dead = [at for name, echo, at in told[cut:] if name == "dies" and not echo]
print("took", dead[MISSES - 1] - dead[0] < 2 * INTERVAL, "then rounds", dead[MISSES] - dead[MISSES - 1] > INTERVAL / 2)
print("each", len(dead) <= asked() - before <= len(dead) + 2)
print("others", {echo for name, echo, _ in told[cut:] if name == "lives"})
# The last one is that of the stop.
never = [at for name, _, at in told if name == "never"][:-1]
print("never", min(later - earlier for earlier, later in zip(never, never[1:])) > INTERVAL / 2)

beats = []

def beat():
    # Echoes have been sent; their answers have come when the thread goes on.
    beats.append(time.monotonic())
    if len(beats) in (3, 5):
        time.sleep(0.7)

told.clear()
prober = Prober("127.0.0.1", 4791, 0.2, report, misses=1)
prober.set_targets({"lives": "127.0.0.3"}, frozenset(), frozenset())
threading.Thread(target=prober.run, kwargs={"beat": beat}, daemon=True).start()
time.sleep(2.4)
prober.stop()
print("stood still", len(beats) > 5, {echo for _, echo, _ in told})
"""


def test_who_does_not_answer_is_asked_again_at_once(make_lab: Callable[..., Lab]) -> None:
    """Four misses take less than two rounds, each of a probe of its own, and who never answered is asked once a round.
    A thread that stands still for some rounds misses nothing of those that answer.
    """
    done = make_lab().nodes[0].run([sys.executable, "-c", AGAIN], timeout=60)
    assert done.stdout.splitlines() == [
        "alive {'dies': {True}, 'lives': {True}, 'never': {False}}",
        "took True then rounds True",
        "each True",
        "others {True}",
        "never True",
        "stood still True {True}",
    ]


LOST = """
import subprocess
import threading
import time
from egress_router.egressip.controller.watched_nodes import ControllerSettings, WatchedNodes
from egress_router.net.icmp_probe import Prober

INTERVAL = 0.4
watched = WatchedNodes(ControllerSettings(standby=True))
watched.set_names(["agent", "bare", "lives"], ())
told = []

def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

def report(answers):
    for text in watched.probed(4, answers, (), 0.0):
        told.append((text, time.monotonic()))

def payload(pods):
    return {"ready": True, "lacks": []}

nft("table inet t { set silent { type ipv4_addr; }; chain out { type filter hook output priority 0; "
    "icmp type echo-reply ip saddr @silent drop; }; }")
agents = [Prober(ip, 4791, 5.0, lambda _: None, payload) for ip in ("127.0.0.2", "127.0.0.3", "127.0.0.4")]
prober = Prober("127.0.0.1", 4791, INTERVAL, report, misses=3)
addresses = {"agent": "127.0.0.2", "bare": "127.0.0.3", "lives": "127.0.0.4"}
prober.set_targets(addresses, frozenset(), frozenset(addresses))
for one in (*agents, prober):
    threading.Thread(target=one.run, daemon=True).start()
time.sleep(5 * INTERVAL)
print(sorted(text for text, _ in told))
agents[1].stop()
told.clear()
nft("add element inet t silent { 127.0.0.2, 127.0.0.3 }")
end = time.monotonic() + 20
while len(told) < 2 and time.monotonic() < end:
    time.sleep(0.01)
print(*(text for text, _ in told), told[-1][1] - told[0][1] > INTERVAL)
prober.stop()

watched = WatchedNodes(ControllerSettings(standby=True))
watched.set_names(["agent", "bare", "lives"], ())
told.clear()
nft("flush set inet t silent")
prober = Prober("127.0.0.1", 4791, INTERVAL, report, misses=3)
prober.set_targets(addresses, frozenset(), frozenset())
threading.Thread(target=prober.run, daemon=True).start()
time.sleep(5 * INTERVAL)
agents[0].stop()
agents[2].stop()
told.clear()
# One of them had a slow answer a moment ago, and now nobody is heard.
prober._targets["lives"].pace.slowest = 0.4 * INTERVAL
nft("add element inet t silent { 127.0.0.2, 127.0.0.3, 127.0.0.4 }")
time.sleep(5 * INTERVAL)
print(*(text for text, _ in told))
prober.stop()
"""


def test_a_controller_takes_no_node_for_down_whose_agent_speaks_because_three_pings_are_late(
    make_lab: Callable[..., Lab],
) -> None:
    """A node that says nothing is down after three that are asked in a row, at once; none when nobody is heard."""
    done = make_lab().nodes[0].run([sys.executable, "-c", LOST], timeout=60)
    assert done.stdout.splitlines() == [
        "['node agent is up', 'node bare is up', 'node lives is up']",
        "node bare is down node agent is down True",
        "no other machine answers; what others hold stays",
    ]
