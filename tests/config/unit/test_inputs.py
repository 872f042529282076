"""Where text comes from: variables, files, lines, comments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from egress_router.config.inputs import (
    MAX_FILE_BYTES,
    Inputs,
    Problems,
    SourceText,
    load_inputs,
    read_file_variable,
    strip_comment,
)
from egress_router.errors import ConfigurationError, Problem
from tests.support.strategies import TEXTS

EXPECTED_FILE = "a readable text file in UTF-8, such as a mounted ConfigMap key"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("80 tcp x", "80 tcp x"),
        ("# whole line", ""),
        ("80 # after a space", "80 "),
        ("80\t# after a tab", "80\t"),
        ("80 #", "80 "),
        ("a#b", "a#b"),
        ("a#b # c", "a#b "),
        ("a#b#c", "a#b#c"),
        ("##", ""),
        ("", ""),
    ],
)
def test_comments(raw: str, kept: str) -> None:
    assert strip_comment(raw) == kept


def test_lines() -> None:
    text = "\ufeff80  tcp\tx\r\n\r\n# comment\r\n \t \n  y # z\r\n\nlast"
    assert [(line.number, line.words, line.text) for line in SourceText("V", text).lines()] == [
        (1, ("80", "tcp", "x"), "80  tcp\tx"),
        (5, ("y",), "y"),
        (7, ("last",), "last"),
    ]


@given(TEXTS)
def test_lines_never_say_nothing(text: str) -> None:
    lines = list(SourceText("V", text).lines())
    assert all(line.words and line.text == line.text.strip() for line in lines)
    numbers = [line.number for line in lines]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= text.count("\n") + 1 for number in numbers)


@pytest.mark.parametrize(
    ("env", "value"), [({}, None), ({"V": ""}, None), ({"V": " \n\t"}, None), ({"V": " x \r\n"}, "x")]
)
def test_value(env: dict[str, str], value: str | None) -> None:
    assert Inputs(env).value("V") == value


def list_text(env: dict[str, str], files: dict[str, SourceText | Problem]) -> tuple[SourceText | None, list[str]]:
    problems = Problems()
    found = Inputs(env, files).list_text("EGRESS_X", problems)
    return found, [str(problem) for problem in problems.errors]


def test_text_comes_from_the_variable() -> None:
    assert list_text({"EGRESS_X": "a\nb"}, {}) == (SourceText("EGRESS_X", "a\nb"), [])
    assert list_text({"EGRESS_X": ""}, {}) == (SourceText("EGRESS_X", ""), [])
    assert list_text({}, {}) == (None, [])


def test_text_comes_from_the_file() -> None:
    file = SourceText("EGRESS_X_FILE", "a")
    for direct in ({}, {"EGRESS_X": ""}, {"EGRESS_X": " \n"}):
        assert list_text({**direct, "EGRESS_X_FILE": "/x"}, {"EGRESS_X_FILE": file}) == (file, [])
    assert list_text({"EGRESS_X": "b", "EGRESS_X_FILE": " "}, {}) == (SourceText("EGRESS_X", "b"), [])


def test_both_set_is_a_problem() -> None:
    found = list_text({"EGRESS_X": "a", "EGRESS_X_FILE": "/x"}, {"EGRESS_X_FILE": SourceText("EGRESS_X_FILE", "a")})
    assert found == (None, ['EGRESS_X_FILE: "/x" cannot be used: EGRESS_X is set too (set one of the two)'])


def test_unreadable_file_is_a_problem() -> None:
    bad = Problem("EGRESS_X_FILE", None, "/x", "cannot be read: No such file or directory")
    assert list_text({"EGRESS_X_FILE": "/x"}, {"EGRESS_X_FILE": bad}) == (None, [str(bad)])


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_bytes("80 tcp x # ä\r\n".encode())
    assert read_file_variable("V_FILE", str(path)) == SourceText("V_FILE", "80 tcp x # ä\r\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "No such file or directory"), (".", "Is a directory"), ("nul\0", "embedded null byte")],
)
def test_read_file_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    path = f"{tmp_path}/{name}"
    assert read_file_variable("V_FILE", path) == Problem(
        "V_FILE", None, path, f"cannot be read: {reason}", EXPECTED_FILE
    )


def test_read_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_bytes(b"one\ntwo \xff\n")
    expected = Problem("V_FILE", 2, str(path), "is not UTF-8 at byte 8", EXPECTED_FILE)
    assert read_file_variable("V_FILE", str(path)) == expected


def test_read_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_bytes(b"#" * MAX_FILE_BYTES)
    assert isinstance(read_file_variable("V_FILE", str(path)), SourceText)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    expected = Problem("V_FILE", None, str(path), f"is larger than {MAX_FILE_BYTES} bytes", EXPECTED_FILE)
    assert read_file_variable("V_FILE", str(path)) == expected


def test_load_reads_our_files_only() -> None:
    read: list[tuple[str, str]] = []

    def reader(variable: str, path: str) -> SourceText:
        read.append((variable, path))
        return SourceText(variable, "text")

    env = {"EGRESS_A_FILE": " /a ", "EGRESS_B_FILE": " ", "EGRESS_C": "c", "OTHER_FILE": "/o", "PATH": "/bin"}
    inputs = load_inputs(env, reader)
    assert read == [("EGRESS_A_FILE", "/a")]
    assert dict(inputs.files) == {"EGRESS_A_FILE": SourceText("EGRESS_A_FILE", "text")}
    assert inputs.env.keys() == {"EGRESS_A_FILE", "EGRESS_B_FILE", "EGRESS_C"}


def test_problems_are_raised_together() -> None:
    problems = Problems()
    problems.warn("V", None, "", "is odd")
    problems.raise_if_any()
    problems.error("V", 1, "", "is bad")
    problems.error("W", None, "", "is bad too")
    with pytest.raises(ConfigurationError) as caught:
        problems.raise_if_any()
    assert [problem.variable for problem in caught.value.problems] == ["V", "W"]


def test_what_kubernetes_adds_for_services_is_not_configuration() -> None:
    links = {
        "EGRESS_HTTP_PROXY_SERVICE_HOST": "198.51.100.9",
        "EGRESS_HTTP_PROXY_SERVICE_PORT": "8080",
        "EGRESS_HTTP_PROXY_SERVICE_PORT_WEB": "8080",
        "EGRESS_HTTP_PROXY_PORT": "tcp://198.51.100.9:8080",
        "EGRESS_HTTP_PROXY_PORT_8080_TCP": "tcp://198.51.100.9:8080",
        "EGRESS_HTTP_PROXY_PORT_8080_TCP_ADDR": "198.51.100.9",
    }
    own = {"EGRESS_HTTP_PROXY_DESTINATION": "*", "EGRESS_SOURCE": "192.0.2.46"}
    assert load_inputs(own | links).env == own
    # What the container itself says about the port stands.
    assert load_inputs(own | links | {"EGRESS_HTTP_PROXY_PORT": "3128"}).env == own | {"EGRESS_HTTP_PROXY_PORT": "3128"}
    # Without the Service it is a mistake, to be reported.
    alone = own | {"EGRESS_HTTP_PROXY_PORT": "tcp://198.51.100.9:8080"}
    assert load_inputs(alone).env == alone
