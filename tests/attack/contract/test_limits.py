"""What the documented limits allow takes at most SECONDS of a processor and MEGABYTES of memory, right or wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from egress_router.config.inputs import MAX_FILE_BYTES, MAX_LIST_LINES

SECONDS, MEGABYTES = 3.0, 200
CHECKOUT = Path(__file__).parents[3]
OURS = {"EGRESS_SOURCE": "192.0.2.46 2001:db8:2::46", "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1"}
POLICY, REDIRECT = "EGRESS_HTTP_PROXY_DESTINATION_FILE", "EGRESS_DESTINATION_FILE"
DNS = "EGRESS_DNS_PROXY_DESTINATION_FILE"


def _by_name(number: int, name: str) -> str:
    """Return a redirect line that claims what no other one does."""
    return f"{number % 50_000 + 1} {'tcp' if number <= 50_000 else 'udp'} {name}"


#: The number of lines, and what is on the nth one.
LISTS: dict[str, tuple[str, int, Callable[[int], str]]] = {
    "a policy of names": (POLICY, 50_000, lambda n: f"host{n}.example.com"),
    "a policy of nested networks": (POLICY, 50_000, lambda n: f"10.{n % 256}.0.0/{9 + n % 15}"),
    "a policy of IPv6 networks": (POLICY, 50_000, lambda n: f"2001:{n >> 8 & 255:x}00:{n & 255:x}00::/40"),
    "a policy of what is wrong": (POLICY, MAX_LIST_LINES, lambda n: f"x y {n}"),
    "a policy of too many lines": (POLICY, 2_000_000, lambda _: "a"),
    "redirect lines": (REDIRECT, MAX_LIST_LINES, lambda n: f"{n % 65535 + 1} tcp 203.0.113.25"),
    "redirect lines of international names": (
        REDIRECT,
        MAX_LIST_LINES,
        lambda n: _by_name(n, f"bücher{n}.example.com"),
    ),
    "redirect lines that overlap": (REDIRECT, MAX_LIST_LINES, lambda n: f"{n % 60000 + 1}-{n % 60000 + 500} udp ::1"),
    "redirect lines that are wrong": (REDIRECT, MAX_LIST_LINES, lambda n: f"x {n}"),
    "lines of the DNS proxy": (DNS, 65_535, lambda n: f"{n} host{n}.example.com"),
    "international names of the DNS proxy": (DNS, 65_535, lambda n: f"{n} bücher{n}.example.com"),
    "lines of the DNS proxy that are wrong": (DNS, MAX_LIST_LINES, lambda n: f"{n} tcp tcp"),
}
MANIFESTS: dict[str, str] = {
    "many objects": "---\n".join(f"kind: Pod\nmetadata: {{name: p{n}, namespace: x}}\n" for n in range(60_000)),
    "many values": "a: [" + "1," * 1_900_000 + "1]",
    "JSON with many values": '{"a": [' + "1," * 1_900_000 + "1]}",
    "blank lines": "\n" * 4_000_000,
    "aliases": "a: &a [1, 2, 3]\n" + "".join(f"b{n}: *a\n" for n in range(120_000)),
    "one long text": "a: '" + "x" * 4_000_000 + "'",
    "an env file": "\n".join(f"EGRESS_A{n}=x" for n in range(100_000)),
}


#: Runs a command and tells what it took. Not in this process: what a child has before exec(2) counts for it, and that
#: is all of pytest's memory (getrusage(2), ru_maxrss).
METER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
said = done.stderr.decode(errors="replace")
json.dump([done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, len(said), said[-2000:]], sys.stdout)
"""
#: Processors that many share do the same in more of their time, now and then half as much again.
TRIES = 3


@dataclass(frozen=True)
class Used:
    """Seconds of a processor, megabytes, and how many characters came on standard error."""

    seconds: float
    megabytes: float
    said: int


def measured(words: list[str], env: dict[str, str]) -> Used:
    """Run a verb, which says yes or no."""
    command = [sys.executable, "-c", METER, sys.executable, "-m", "egress_router", *words]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=True
    )
    status, seconds, megabytes, said, last = json.loads(done.stdout)
    assert status in (0, 2, 78), last
    return Used(seconds, megabytes, said)


def judge(words: list[str], env: dict[str, str]) -> None:
    tries: list[float] = []
    while not tries or (tries[-1] > SECONDS and len(tries) < TRIES):
        used = measured(words, env)
        tries.append(used.seconds)
        assert used.megabytes <= MEGABYTES
        assert used.said < 200_000
    assert tries[-1] <= SECONDS, tries


@pytest.mark.parametrize("verb", [["check"], ["check", "-o", "json"]], ids=["check", "json"])
@pytest.mark.parametrize("name", LISTS)
def test_lists(name: str, verb: list[str], tmp_path: Path) -> None:
    variable, count, line = LISTS[name]
    path = tmp_path / "list"
    path.write_text("\n".join(line(number) for number in range(1, count + 1)))
    assert path.stat().st_size <= MAX_FILE_BYTES
    judge(verb, {**OURS, variable: str(path)})


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(name: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(MANIFESTS[name])
    assert path.stat().st_size <= MAX_FILE_BYTES
    judge(["check", "--env-file" if name == "an env file" else "-f", str(path)], {})


@pytest.mark.parametrize("verb", ["plan", "explain", "migrate"])
@pytest.mark.parametrize("name", [name for name in MANIFESTS if name != "an env file"])
def test_verbs_that_read_manifests(name: str, verb: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(MANIFESTS[name])
    judge([verb, "-f", str(path), *(["80"] if verb == "explain" else [])], {})


def test_the_measure_can_fail() -> None:
    """It sees what the verb takes, and not what this process has."""
    mine = b"x" * (300 << 20)
    used = measured(["check", "-o", "json"], OURS)
    assert used.seconds > 0.02
    assert 10 < used.megabytes < len(mine) >> 20
