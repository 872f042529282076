"""``check``: all problems together, from wherever the variables come."""

from __future__ import annotations

import io
import sys

import pytest

from tests.cli.unit.conftest import ROUTER, CommandLine
from tests.cli.unit.manifests import plain


def test_a_valid_environment(cli: CommandLine) -> None:
    result = cli("check")
    assert (result.status, result.err) == (0, "")
    assert result.out == "environment: mode init, leaving with 192.0.2.46/32 by 192.0.2.1, 3 redirect rules; ok\n"


def test_all_problems_come_together(cli: CommandLine) -> None:
    wrong = {
        "EGRESS_SOURCE": "999.1.1.1",
        "EGRESS_GATEWAY": "",
        "EGRESS_DESTINATION": "0443 tcp 203.0.113.25\n80 icmp 203.0.113.25",
        "EGRESS_ROUTER_MODE": "unit-test",
    }
    result = cli("check", env=wrong)
    assert result.status == 78
    assert result.out == ""
    head, *lines = result.err.splitlines()
    assert head == "egress-router: 5 problems in the configuration; nothing was changed"
    named = [line.split(":")[0].strip() for line in lines]
    assert sorted(named) == [
        "EGRESS_DESTINATION line 1",
        "EGRESS_DESTINATION line 2",
        "EGRESS_GATEWAY",
        "EGRESS_ROUTER_MODE",
        "EGRESS_SOURCE",
    ]


def test_json(cli: CommandLine) -> None:
    assert cli("check", "-o", "json").json == {"ok": True, "problems": [], "warnings": []}
    result = cli("check", "-o", "json", env={**ROUTER, "EGRESS_DESTINATION": "x", "EGRESS_SORCE": "y"})
    assert result.status == 78
    assert result.err == ""
    assert result.json["ok"] is False
    (problem,) = result.json["problems"]
    assert (problem["variable"], problem["line"], problem["text"]) == ("EGRESS_DESTINATION", 1, "x")
    assert problem["message"]
    assert [warning["variable"] for warning in result.json["warnings"]] == ["EGRESS_SORCE"]


def test_json_of_a_file_that_cannot_be_read(cli: CommandLine) -> None:
    result = cli("check", "-o", "json", "-f", "/nonexistent.yaml")
    assert result.status == 78
    assert [item["variable"] for item in result.json["problems"]] == ["/nonexistent.yaml"]


def test_warnings_do_not_stop_it(cli: CommandLine) -> None:
    result = cli("check", env={**ROUTER, "EGRESS_SORCE": "192.0.2.46"})
    assert result.status == 0
    assert result.err.startswith("warning: EGRESS_SORCE:")
    assert "EGRESS_SOURCE?" in result.err


def test_bytes_that_are_no_text(cli: CommandLine) -> None:
    result = cli("check", "-o", "json", env={**ROUTER, "EGRESS_DESTINATION": "80 tcp \udcff"})
    assert result.status == 78
    assert result.json["problems"][0]["text"] == "80 tcp \udcff"


ENV_FILE = """\ufeff# a router
EGRESS_SOURCE=192.0.2.46
  EGRESS_GATEWAY = 192.0.2.1\r
EGRESS_ROUTER_MODE=init

EGRESS_DESTINATION="80 tcp 203.0.113.25\\n203.0.113.27"
"""


def test_env_file(cli: CommandLine) -> None:
    path = cli.file(ENV_FILE, "router.env")
    result = cli("check", "--env-file", path, env={"EGRESS_SOURCE": "not looked at"})
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{path}: mode init, leaving with 192.0.2.46/32 by 192.0.2.1, 2 redirect rules; ok\n"


def test_env_file_as_shells_write_it(cli: CommandLine) -> None:
    text = (
        "export EGRESS_SOURCE='192.0.2.46'\nexport\tEGRESS_GATEWAY=\"192.0.2.1\"\nEGRESS_DESTINATION='203.0.113.27'\n"
    )
    result = cli("check", "--env-file", cli.file(text, "router.env"))
    assert (result.status, result.err) == (0, "")
    assert "leaving with 192.0.2.46/32 by 192.0.2.1" in result.out


ENV_FILES = {
    "several lines in single quotes": "export EGRESS_DESTINATION='80 tcp 203.0.113.25  # it's ours\n\n203.0.113.27'\n",
    "several lines in double quotes": 'EGRESS_DESTINATION="80 tcp 203.0.113.25\n203.0.113.27"\n',
    "Windows' line ends": "EGRESS_DESTINATION='80 tcp 203.0.113.25\r\n203.0.113.27'\r\n",
    "a comment behind quotes": 'EGRESS_DESTINATION="80 tcp 203.0.113.25\\n203.0.113.27" # "two"\n',
}


@pytest.mark.parametrize("name", ENV_FILES)
def test_values_of_env_files_in_quotes(cli: CommandLine, name: str) -> None:
    rest = "EGRESS_SOURCE='192.0.2.46'\t# ours\nEGRESS_GATEWAY=192.0.2.1\nEGRESS_ROUTER_MODE=init\n"
    result = cli("check", "--env-file", cli.file(ENV_FILES[name] + rest))
    assert (result.status, result.err) == (0, "")
    assert "2 redirect rules" in result.out


@pytest.mark.parametrize("quote", "'\"")
def test_a_quote_that_nothing_closes(cli: CommandLine, quote: str) -> None:
    path = cli.file(f"A=b\nEGRESS_SOURCE={quote}192.0.2.46\n" + "x y\n" * 100_000)
    result = cli("check", "--env-file", path)
    assert result.status == 78
    assert f"{path} line 2: " in result.err
    assert f"starts with {quote}, and no later line ends with one" in result.err
    assert "not NAME=VALUE" not in result.err


def test_env_file_with_lines_that_are_none(cli: CommandLine) -> None:
    path = cli.file("EGRESS_SOURCE 192.0.2.46\nexported EGRESS_GATEWAY=192.0.2.1\nÄ=1\nOTHER=1\n", "router.env")
    result = cli("check", "--env-file", path)
    assert result.status == 78
    for number in (1, 2, 3):
        assert f"{path} line {number}:" in result.err
    assert "line 4" not in result.err


@pytest.mark.parametrize(
    "text",
    [
        "# Source: shop.yaml\n\napiVersion: v1\nkind: Pod\n",
        "---\nkind: Pod\napiVersion: v1\n",
        '\ufeff{"apiVersion": "v1", "kind": "Pod"}\n',
    ],
)
def test_a_manifest_given_as_env_file(cli: CommandLine, text: str) -> None:
    path = cli.file(text)
    result = cli("check", "--env-file", path)
    assert result.status == 78
    assert result.err.splitlines()[1:] == [f"  {path}: is a manifest, not variables (-f takes it)"]


@pytest.mark.parametrize("verb", [("check",), ("plan",), ("explain", "80/tcp"), ("status",)])
def test_no_variable_at_all(cli: CommandLine, verb: tuple[str, ...]) -> None:
    result = cli(*verb, env={"PATH": "/bin"})
    assert result.status == 78
    assert "environment: has no EGRESS_* variable (-f MANIFEST or --env-file FILE, or run it" in result.err
    assert "has no EGRESS_* variable" not in cli(*verb, env={"EGRESS_ROUTER_MODE": "init"}).err


@pytest.mark.parametrize("option", ["-f", "--env-file"])
def test_files_that_cannot_be_used(cli: CommandLine, option: str) -> None:
    missing = cli("check", option, "/nonexistent")
    assert missing.status == 78
    assert "/nonexistent: cannot be read: No such file or directory" in missing.err
    folder = cli("check", option, str(cli.folder))
    assert folder.status == 78
    assert ("is a directory without" if option == "-f" else "Is a directory") in folder.err
    (cli.folder / "latin").write_bytes(b"ok: ok\nEGRESS_SOURCE=\xff\n")
    latin = cli("check", option, str(cli.folder / "latin"))
    assert latin.status == 78
    assert "latin line 2: is not UTF-8" in latin.err


@pytest.mark.parametrize(("data", "status"), [(plain().encode(), 0), (b"\xff", 78), (b"", 78)])
def test_standard_input(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, data: bytes, status: int) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    result = cli("check", "-f", "-")
    assert result.status == status
    assert "Traceback" not in result.err


def test_both_options(cli: CommandLine) -> None:
    result = cli("check", "-f", "a", "--env-file", "b")
    assert result.status == 2
    assert "--env-file" in result.err


def test_an_empty_policy_is_one(cli: CommandLine) -> None:
    """And not a router without its variables."""
    for text in ("", " \n", "# nothing\n"):
        result = cli("check", env={"EGRESS_HTTP_PROXY_DESTINATION": text})
        assert result.status == 78
        assert result.err.count("\n  ") == 1
        assert "EGRESS_HTTP_PROXY_DESTINATION: has no destination" in result.err
