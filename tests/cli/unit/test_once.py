"""Options that have one value are given once; those of several families or routers several times."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from egress_router.cli import group
from egress_router.cli.once import Verb
from tests.cli.unit.conftest import CommandLine

MANIFESTS = ("manifests", "redirect", "--name=shop", "--platform=kubernetes", "--parent-interface=eth1")
BOTH = "192.0.2.46,2001:db8:2::46"
GATEWAY4, GATEWAY6 = "192.0.2.1", "2001:db8:2::1"


def commands(of: click.Command) -> Iterator[click.Command]:
    yield of
    for one in of.commands.values() if isinstance(of, click.Group) else ():
        yield from commands(one)


@pytest.mark.parametrize("verb", group.VERBS)
def test_every_verb_heeds_it(verb: str) -> None:
    loaded = group.load(verb)
    assert isinstance(loaded, click.Command)
    assert [one.name for one in commands(loaded) if not isinstance(one, Verb)] == []


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (
            (*MANIFESTS, "--source=192.0.2.46", "--gateway=192.0.2.1", "--destinations=a", "--destinations=b"),
            "--destin",
        ),
        ((*MANIFESTS, "--name=web"), "--name"),
        (("check", "-o", "json", "-o", "text"), "--output"),
        (("check", "--output=json", "-o", "json"), "--output"),
        (("explain", "80/tcp", "--env-file", "a", "--env-file", "b"), "--env-file"),
        (("egressip", "plan", "--state", "a", "--state", "b"), "--state"),
        (("egressip", "patch", "hostsubnet", "n", "--state", "a", "--state", "b"), "--state"),
        (("node", "status", "-o", "json", "-o", "text"), "--output"),
        (("node", "--interface", "a", "--interface", "b"), "--interface"),
        (("migrate", "--tag=1", "--tag=2", "old.yaml"), "--tag"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:3]),
)
def test_one_value_is_given_once(cli: CommandLine, words: tuple[str, ...], option: str) -> None:
    result = cli(*words)
    assert result.status == 2
    assert result.out == ""
    assert option in result.err.splitlines()[-1]
    assert "is given twice" in result.err


def test_flags_and_lists_may_be_repeated(cli: CommandLine) -> None:
    pod = cli.file("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n", "a.yaml")
    assert "given twice" not in cli("check", "-f", pod, "-f", pod).err
    assert "given twice" not in cli(*MANIFESTS, "--sdn", "--sdn").err
    assert cli("check", "-h", "-h").status == 0


def gateways(cli: CommandLine, *gateway: str, source: str = BOTH, more: tuple[str, ...] = ()) -> tuple[int, str]:
    words = [*MANIFESTS, f"--source={source}", "--destinations", cli.file("80 tcp 203.0.113.25\n", "list"), *more]
    result = cli(*words, *(f"--gateway={one}" for one in gateway))
    return result.status, result.out + result.err


def test_a_gateway_of_each_family(cli: CommandLine) -> None:
    """Given twice, or with a comma between: the same."""
    status, text = gateways(cli, GATEWAY4, GATEWAY6)
    assert status == 0
    assert text.count(f"{GATEWAY4},{GATEWAY6}") + text.count(f"{GATEWAY4} {GATEWAY6}") >= 1
    assert gateways(cli, f"{GATEWAY4},{GATEWAY6}") == (0, text)


@pytest.mark.parametrize("source", ["192.0.2.46", BOTH])
def test_two_gateways_of_one_family_are_refused(cli: CommandLine, source: str) -> None:
    """The last one won."""
    status, text = gateways(cli, GATEWAY4, "192.0.2.2", *([GATEWAY6] if ":" in source else []), source=source)
    assert status == 78
    assert "--gateway: " in text
    assert "has two IPv4 addresses" in text


def test_a_gateway_without_a_source_is_refused(cli: CommandLine) -> None:
    status, text = gateways(cli, GATEWAY4, GATEWAY6, source="192.0.2.46")
    assert status == 78
    assert "has an IPv6 address, but EGRESS_SOURCE has none" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set=EGRESS_LOG_LEVEL=debug", "--set=EGRESS_LOG_LEVEL=info"), "says otherwise than EGRESS_LOG_LEVEL=debug"),
        (("--node-selector=a=1", "--node-selector=a=2"), "says otherwise than a=1 before it"),
    ],
)
def test_one_name_with_two_values_is_refused(cli: CommandLine, more: tuple[str, ...], said: str) -> None:
    status, text = gateways(cli, GATEWAY4, source="192.0.2.46", more=more)
    assert status == 78
    assert said in text
    same = (more[0], more[0])
    assert gateways(cli, GATEWAY4, source="192.0.2.46", more=same)[0] == 0
