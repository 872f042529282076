"""The frame: help, usage errors, errors of every class as text and exit code, a reader that goes away."""

from __future__ import annotations

import os
import platform
import sys

import click
import pytest

from egress_router import __version__, errors
from egress_router.cli import group
from egress_router.cli import main as frame
from egress_router.errors import EgressRouterError, Problem, ToolFailed
from tests.cli.unit.conftest import CommandLine

VERBS = list(group.VERBS)


def all_errors(kind: type[EgressRouterError] = EgressRouterError) -> list[type[EgressRouterError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in all_errors(sub))]


def made(kind: type[EgressRouterError]) -> EgressRouterError:
    if issubclass(kind, errors.ConfigurationError):
        return kind([Problem("EGRESS_SOURCE", None, "x", "is not an IP address")])
    if issubclass(kind, ToolFailed):
        return kind(["nft", "-f", "-"], 1, "syntax error")
    return kind("what went wrong")


OURS = [kind for kind in all_errors() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OURS)
def test_an_error_becomes_its_text_and_its_code(
    kind: type[EgressRouterError], capsys: pytest.CaptureFixture[str]
) -> None:
    error = made(kind)

    def fail() -> int:
        raise error

    assert frame.guarded(fail) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"egress-router: {error}\n"


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.guarded(lambda: 1 // 0) == 70
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "bug of egress-router" in err


def test_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert frame.guarded(interrupted) == 130
    assert capsys.readouterr().err == "egress-router: interrupted\n"


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["egress-router", "nonsense"])
    with pytest.raises(SystemExit) as ended:
        frame.main()
    assert ended.value.code == 2


def test_alone_it_shows_the_verbs(cli: CommandLine) -> None:
    result = cli()
    assert result.status == 2
    for verb in VERBS:
        assert f"\n  {verb} " in result.err + result.out


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(cli: CommandLine, option: str) -> None:
    result = cli(option)
    assert (result.status, result.err) == (0, "")
    assert "docs/exit-codes.md" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(cli: CommandLine, verb: str) -> None:
    result = cli(verb, "--help")
    assert (result.status, result.err) == (0, "")
    _, found, examples = result.out.partition("Example")
    assert found
    assert f"egress-router {verb}" in examples


def test_version(cli: CommandLine) -> None:
    result = cli("--version")
    assert (result.status, result.out) == (0, f"egress-router, version {__version__}\n")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["check", "--nonsense"], ["explain"], ["init", "extra"], ["plan", "-o", "nonsense"]]
)
def test_usage_errors(cli: CommandLine, words: list[str]) -> None:
    result = cli(*words)
    assert result.status == 2
    assert result.out == ""
    assert "Usage: egress-router" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("words", [["check"], ["plan", "--pod", "sample"], ["explain", "80"], ["check", "--help"]])
def test_a_reader_that_goes_away_is_no_failure(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stream = os.fdopen(write_end, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    result = cli(*words)
    assert (result.status, result.err) == (0, "")
    stream.close()


def test_verbs_that_need_linux_are_said_to_elsewhere(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = group.load

    def load(verb: str) -> object:
        if verb == "node":
            raise ImportError("No module named 'fcntl'")
        return real(verb)

    monkeypatch.setattr(group, "load", load)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    shown = cli("--help")
    assert shown.status == 0
    assert "node        For Linux." in shown.out
    refused = cli("node", "status", "--state", "x")
    assert (refused.status, refused.out) == (69, "")
    assert "`egress-router node` is for Linux (No module named 'fcntl')" in refused.err
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(ImportError):
        group.cli.get_command(click.Context(group.cli), "node")
