"""The documentation says what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from egress_router import errors
from egress_router.cli import main as frame
from egress_router.cli import notes, status
from egress_router.cli.group import cli
from egress_router.config.inputs import DNS_PROXY, HTTP_PROXY, KNOWN, NODE, ROUTER, Inputs, Problems
from egress_router.config.settings import LogFormat, LogLevel
from egress_router.config.values import Protocol
from egress_router.net.rtnetlink.values import MacvlanMode
from egress_router.redirect.config import parse_router
from egress_router.redirect.desired import desired_sample
from egress_router.redirect.iptables_rules import iptables_tables
from egress_router.redirect.network_state import CLUSTER_MARK, CLUSTER_TABLE, EGRESS_TABLE, PROTOCOL
from egress_router.redirect.nft_rules import nft_table
from egress_router.redirect.sample import SAMPLE_POD
from egress_router.redirect.values import Backend, FlowOffload, Mode

CHECKOUT = Path(__file__).parents[3]
PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
MINIMAL = {"EGRESS_SOURCE": "192.0.2.46 2001:db8:2::46", "EGRESS_GATEWAY": "192.0.2.1 2001:db8:2::1"}


def page(name: str) -> str:
    return (CHECKOUT / name).read_text()


def section(name: str, heading: str) -> str:
    """Return what stands under a heading of a page, up to the next of the same or a higher level."""
    level = heading.split(" ")[0]
    _, found, rest = page(name).partition(f"\n{heading}\n")
    assert found, f"{name} has no {heading}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables in a text by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in cells}


def blocks(text: str) -> list[str]:
    """Return the fenced blocks of a text."""
    return re.findall(r"^```[a-z]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("names", [ROUTER, HTTP_PROXY, DNS_PROXY, NODE])
def test_every_variable_is_known_once(names: tuple[str, ...]) -> None:
    assert len(set(names)) == len(names)


def options(command: click.Command) -> list[click.Parameter]:
    found = list(command.params)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            assert sub is not None
            found += options(sub)
    return found


def test_every_variable_that_an_option_reads_is_known() -> None:
    names = {str(option.envvar) for option in options(cli) if option.envvar}
    assert "EGRESS_STATE_DIR" in names
    assert names <= KNOWN


def test_every_variable_of_the_router_is_documented() -> None:
    table = " ".join(rows(section("docs/configuration.md", "## Variables of the router")))
    assert set(re.findall(r"EGRESS_[A-Z_]+", table)) == set(ROUTER)


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md", "docs/operations.md"])
def test_every_variable_that_is_documented_exists(name: str) -> None:
    named = set(re.findall(r"\bEGRESS_[A-Z_]*[A-Z]\b", page(name)))
    assert named
    assert named <= KNOWN


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("### EGRESS_ROUTER_MODE", Mode),
        ("### EGRESS_NAT_BACKEND", Backend),
        ("### EGRESS_FLOW_OFFLOAD", FlowOffload),
        ("### EGRESS_PARENT_INTERFACE, EGRESS_HOST_NETNS, EGRESS_MACVLAN_MODE", MacvlanMode),
        ("### EGRESS_DESTINATION", Protocol),
        ("### Logs", LogFormat),
        ("### Logs", LogLevel),
    ],
)
def test_every_value_is_documented(heading: str, values: type[Mode]) -> None:
    text = section("docs/configuration.md", heading)
    for value in values:
        assert f"`{value}`" in text


def test_defaults() -> None:
    config = parse_router(Inputs({**MINIMAL, "EGRESS_DESTINATION": "203.0.113.27"}), Problems())
    assert config is not None
    table = rows(section("docs/configuration.md", "## Variables of the router"))
    default = {re.sub(r"\[(\w+)\].*", r"\1", key): cells[0].strip("`") for key, cells in table.items()}
    assert default["EGRESS_ROUTER_MODE"] == config.mode
    assert default["EGRESS_NAT_BACKEND"] == config.backend
    assert default["EGRESS_FLOW_OFFLOAD"] == config.flow_offload
    assert default["EGRESS_MACVLAN_MODE"] == config.macvlan_mode
    assert (default["EGRESS_DAD"] == "on") == config.dad


def test_the_example_of_the_grammar_is_right() -> None:
    text = blocks(section("docs/configuration.md", "### EGRESS_DESTINATION"))[0]
    problems = Problems()
    config = parse_router(Inputs({**MINIMAL, "EGRESS_DESTINATION": text}), problems)
    assert not problems.errors
    assert config is not None
    assert len(config.rules.all) == len(text.splitlines())


def test_the_example_of_errors_is_what_check_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next(text for text in blocks(page("docs/configuration.md")) if text.startswith("$ "))
    command, _, printed = example.removeprefix("$ ").partition(" egress-router check\n")
    for name in KNOWN:
        monkeypatch.delenv(name, raising=False)
    for word in shlex.split(command):
        monkeypatch.setenv(*word.split("=", 1))
    assert frame.guarded(lambda: frame.run(["check"])) == 78
    assert capsys.readouterr().err == printed


def test_the_manifest_of_the_readme_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = next(text for text in blocks(page("README.md")) if text.startswith("apiVersion"))
    assert yaml.safe_load(manifest)["kind"] == "Pod"
    path = tmp_path / "pod.yaml"
    path.write_text(manifest)
    assert frame.guarded(lambda: frame.run(["check", "-f", str(path)])) == 0
    assert "3 redirect rules; ok" in capsys.readouterr().out


def test_exit_codes() -> None:
    kinds = [errors.EgressRouterError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = {kind.exit_code for kind in kinds} | {0, status.DRIFT, notes.LOSSES, frame.INTERNAL, frame.INTERRUPTED}
    documented = {int(cell) for cell in rows(page("docs/exit-codes.md")) if cell.isdigit()}
    assert documented == codes


def test_messages_are_those_of_the_code() -> None:
    table = page("docs/operations.md").partition("## Messages and what to do")[2]
    found = re.findall(r"^\| ([0-9]+) \| (.*?) \|", table, flags=re.MULTILINE)
    documented = {int(cell) for cell in rows(page("docs/exit-codes.md")) if cell.isdigit()}
    source = "".join(path.read_text() for path in (CHECKOUT / "egress_router").rglob("*.py"))
    # Long messages are written as several strings, one after the other.
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    assert len(found) > 10
    for code, message in found:
        assert int(code) in documented
        for part in re.split(r"\*[^*]*\*", message):
            assert part.strip(" :") in source, message


def test_names_in_the_kernel() -> None:
    config = parse_router(
        Inputs({**MINIMAL, "EGRESS_DESTINATION": "80 tcp 203.0.113.25\n203.0.113.27\n2001:db8:113::27"}), Problems()
    )
    assert config is not None
    text = page("docs/design/redirect.md")
    desired = desired_sample(config)
    assert SAMPLE_POD.links[1].name == desired.network.cluster == "eth0"
    for number in (PROTOCOL, CLUSTER_TABLE, EGRESS_TABLE, f"{CLUSTER_MARK:#x}"):
        assert str(number) in text
    priorities = {str(rule.priority) for rule in desired.network.rules}
    assert {
        cell for cell in rows(section("docs/design/redirect.md", "### Tables and rules")) if cell.isdigit()
    } == priorities
    chains = {chain.name for chain in nft_table(desired.translation).chains}
    nft = " ".join(rows(section("docs/design/redirect.md", "### nftables: the table `inet egress_router`")))
    assert set(re.findall(r"`(\w+)`", nft)) | {"redirect4", "redirect6"} == chains
    iptables = rows(section("docs/design/redirect.md", "### iptables: chains `EGRESSR-*`"))
    for family in config.sources:
        for table in iptables_tables(desired.translation, family):
            named = {name.removeprefix("EGRESSR") for name in re.findall(r"`([-A-Z]+)`", iptables[table.name][0])}
            assert named == {name.removeprefix("EGRESSR") for name in table.chains}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in {slug(line) for line in found.read_text().splitlines() if line.startswith("#")}, target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_modules_and_files_that_are_named_exist(path: Path) -> None:
    """Of the checkout, also in code; words such as PRODUCT and * stand for others."""
    text = path.read_text()
    modules = re.findall(r"python3? -m ((?:bench|lab|tests|egress_router)[\w.]*)", text)
    files = re.findall(r"(?<![\w/.-])((?:bench|egress_router|findings|lab|scripts|tests)/[\w./*-]*\w)", text)
    for name in [*(module.replace(".", "/") for module in modules), *files]:
        if "*" not in name and not re.search(r"[A-Z]{2}", name):
            assert any((CHECKOUT / f"{name}{end}").exists() for end in ("", ".py")), name


def slug(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")
