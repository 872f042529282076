"""Where configuration text comes from: variables, and the files that ``*_FILE`` variables name.

Parsers take an ``Inputs`` and never look at the process environment or the file system themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from egress_router.config.files import read_regular
from egress_router.config.patterns import pattern
from egress_router.errors import ConfigurationError, Problem
from egress_router.records import dataclass, field

#: Larger files are refused: a ConfigMap holds at most 1 MiB.
MAX_FILE_BYTES = 4 * 1024 * 1024
#: Lines of a list, blank ones and comments counted in: each that is wrong is a problem.
MAX_LIST_LINES = 100_000
EXPECTED_FILE = "a readable text file in UTF-8, such as a mounted ConfigMap key"


class Problems:
    """Collects problems so that all of them are reported together. ``warnings`` do not stop anything."""

    def __init__(self) -> None:
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []

    def error(self, variable: str, line: int | None, text: str, message: str, expected: str = "") -> None:
        """Note something that makes the configuration unusable."""
        self.errors.append(Problem(variable, line, text, message, expected))

    def warn(self, variable: str, line: int | None, text: str, message: str, expected: str = "") -> None:
        """Note something that works but is hardly what was meant."""
        self.warnings.append(Problem(variable, line, text, message, expected))

    def raise_if_any(self) -> None:
        """Raise ConfigurationError when at least one error was noted."""
        if self.errors:
            raise ConfigurationError(self.errors)


@dataclass(frozen=True, slots=True)
class Line:
    """One meaningful line of a list variable: its 1-based number, the words on it, and the text without comment."""

    number: int
    words: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of a list variable and the name to blame for it (the variable, or the ``_FILE`` variable)."""

    variable: str
    text: str

    def lines(self) -> Iterator[Line]:
        """Yield lines that say something: blank lines and ``#`` comments (whole line or after white space) are
        skipped, CRLF and tabs are fine, a byte order mark is ignored.
        """
        for number, raw in enumerate(self.text.removeprefix("\ufeff").split("\n"), start=1):
            text = strip_comment(raw).strip()
            if text:
                yield Line(number, tuple(text.split()), text)


def strip_comment(raw: str) -> str:
    """Return ``raw`` without a ``#`` comment that starts the line or follows white space."""
    at = raw.find("#")
    while at > 0 and not raw[at - 1].isspace():
        at = raw.find("#", at + 1)
    return raw if at < 0 else raw[:at]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The EGRESS_* variables, and the text (or the reason why there is none) of every file that they name.

    ``files`` is keyed by the ``*_FILE`` variable.
    """

    env: Mapping[str, str]
    files: Mapping[str, SourceText | Problem] = field(default_factory=dict)

    def value(self, variable: str) -> str | None:
        """Return the stripped value of a single-valued variable; None when unset or blank."""
        return self.env.get(variable, "").strip() or None

    def list_text(self, variable: str, problems: Problems) -> SourceText | None:
        """Return the text of a list variable or of its ``_FILE`` twin; None when neither is set.

        Notes a problem when both are set or the file could not be read (and returns None then).
        """
        file_variable = variable + "_FILE"
        direct = self.env.get(variable)
        named = self.value(file_variable)
        if direct is not None and direct.strip() and named:
            problems.error(file_variable, None, named, f"cannot be used: {variable} is set too", "set one of the two")
            return None
        if named:
            loaded = self.files.get(file_variable)
            if isinstance(loaded, Problem):
                problems.errors.append(loaded)
                return None
            found = loaded
        else:
            found = None if direct is None else SourceText(variable, direct)
        if found is not None and found.text.count("\n") > MAX_LIST_LINES:
            problems.error(found.variable, None, "", f"has more than {MAX_LIST_LINES} lines", "fewer lines")
            return None
        return found


def read_file_variable(variable: str, path: str, *, regular: bool = True) -> SourceText | Problem:
    """Read the UTF-8 file that ``variable`` names; a Problem says why it cannot be used.

    What is no regular file is refused, for a pipe may keep whoever opens it waiting for ever; not ``regular``: a person
    who names one waits.
    """
    try:
        if regular:
            data = read_regular(path, MAX_FILE_BYTES + 1)
        else:
            # Imported here: every pod would wait for it.
            from pathlib import Path

            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Problem(variable, None, path, f"cannot be read: {reason}", EXPECTED_FILE)
    return decoded(variable, path, data)


def decoded(variable: str, path: str, data: bytes) -> SourceText | Problem:
    """Return the bytes of a file as text; a Problem of ``variable`` says why they cannot be used."""
    if len(data) > MAX_FILE_BYTES:
        return Problem(variable, None, path, f"is larger than {MAX_FILE_BYTES} bytes", EXPECTED_FILE)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        expected = "UTF-8: Windows PowerShell's > writes UTF-16, | Out-File -Encoding utf8 does not"
        return Problem(variable, 1, path, "is UTF-16", expected)
    try:
        return SourceText(variable, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(variable, line, path, f"is not UTF-8 at byte {error.start}", EXPECTED_FILE)


def service_links(env: Mapping[str, str]) -> frozenset[str]:
    """Return the variables that Kubernetes adds for Services: of a Service ``egress-http-proxy`` these are
    EGRESS_HTTP_PROXY_SERVICE_HOST, …_SERVICE_PORT, …_PORT=tcp://… and …_PORT_8080_TCP. They are nobody's settings.
    """
    services = {name.removesuffix("_SERVICE_HOST") for name in env if name.endswith("_SERVICE_HOST")}
    found: set[str] = set()
    for name, value in env.items() if services else ():
        for end in re.finditer("_SERVICE_|_PORT", name):
            if name[: end.start()] in services and (name[end.start() :] != "_PORT" or "://" in value):
                found.add(name)
    return frozenset(found)


def load_inputs(
    env: Mapping[str, str], read: Callable[[str, str], SourceText | Problem] = read_file_variable
) -> Inputs:
    """Return the Inputs of an environment, reading each file that a non-empty ``EGRESS_*_FILE`` variable names."""
    links = service_links(env)
    ours = {name: value for name, value in env.items() if name.startswith("EGRESS_") and name not in links}
    files = {name: read(name, path.strip()) for name, path in ours.items() if name.endswith("_FILE") and path.strip()}
    return Inputs(ours, files)


_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
EXPECTED = 'such as EGRESS_SOURCE=192.0.2.46, or EGRESS_DESTINATION="80 tcp 203.0.113.25\\n203.0.113.27"'


#: What the first line of a manifest starts with, and none of variables does.
_MANIFEST = ("apiVersion:", "kind:", "metadata:", "---", "{", "items:")

#: The line that closes a quote, perhaps with a comment of a shell behind it.
_CLOSING = {quote: rf"(.*?){quote}(?:[ \t]+#.*)?" for quote in "'\""}


def parse_env_file(text: str, label: str) -> dict[str, str]:
    """Return the variables of an env file. In double quotes, backslash n is a line break; single quotes are taken away
    and change nothing else. A value in quotes may go on over several lines, and have a comment behind it. ``export``
    may stand in front. Blank lines and lines that start with ``#`` are skipped; a later line wins over an earlier one
    with the same name.

    Raises ConfigurationError naming every line that is not NAME=VALUE, and every quote that nothing closes, or
    saying that the file is a manifest.
    """
    first = next((line for line in text.removeprefix("\ufeff").split("\n") if line.strip() and line[0] != "#"), "")
    if first.startswith(_MANIFEST):
        raise ConfigurationError([Problem(label, None, "", "is a manifest, not variables", "-f takes it")])
    found: dict[str, str] = {}
    problems = []
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    for number, raw in lines:
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        # As the shell's own files have it.
        name = re.sub(r"^export[ \t]+", "", name).strip()
        if not equals or not pattern(_NAME).fullmatch(name):
            problems.append(Problem(label, number, line, "is not NAME=VALUE", EXPECTED))
            continue
        value = value.strip()
        if quote := value[:1] if value[:1] in _CLOSING else "":
            parts: list[str] = []
            part: str | None = value[1:]
            while part is not None and not (last := pattern(_CLOSING[quote]).fullmatch(part)):
                parts.append(part)
                part = next((following.rstrip() for _, following in lines), None)
            if part is None:
                message = f"starts with {quote}, and no later line ends with one"
                problems.append(Problem(label, number, line, message, "the same quote at the end of the value"))
                break
            value = "\n".join([*parts, last[1] if last else ""])
            value = value.replace("\\n", "\n") if quote == '"' else value
        found[name] = value
    if problems:
        raise ConfigurationError(problems)
    return found


#: All EGRESS_* variables there are, for a warning of misspelt ones.
ROUTER = (
    "EGRESS_SOURCE",
    "EGRESS_GATEWAY",
    "EGRESS_DESTINATION",
    "EGRESS_DESTINATION_FILE",
    "EGRESS_ROUTER_MODE",
    "EGRESS_ROUTER_DEBUG",
    "EGRESS_NAT_BACKEND",
    "EGRESS_FLOW_OFFLOAD",
    "EGRESS_INTERFACE",
    "EGRESS_PARENT_INTERFACE",
    "EGRESS_HOST_NETNS",
    "EGRESS_MACVLAN_MODE",
    "EGRESS_HOST_IPS",
    "EGRESS_CLUSTER_CIDRS",
    "EGRESS_DAD",
    "EGRESS_DAD_WAIT",
    "EGRESS_HANDOVER",
    "EGRESS_LIST_WAIT",
    "EGRESS_LOG_FORMAT",
    "EGRESS_LOG_LEVEL",
    "EGRESS_SHUTDOWN_DELAY",
    "EGRESS_SHUTDOWN_GRACE",
    "EGRESS_HEALTH_PORT",
    "EGRESS_PAGE",
    "EGRESS_PAGE_HOSTS",
    "EGRESS_CHECK",
    "EGRESS_ANNOUNCE_INTERVAL",
    "EGRESS_PROBE_INTERVAL",
    "EGRESS_NAME_HOLD",
    "EGRESS_PAIR",
    "EGRESS_PAIR_PRIORITY",
    "EGRESS_PAIR_INTERVAL",
    "EGRESS_PAIR_ADDRESS",
    "EGRESS_PAIR_PEERS",
    "EGRESS_PAIR_NETWORK",
    "EGRESS_PAIR_PORT",
    "EGRESS_RUN_DIR",
)
HTTP_PROXY = (
    "EGRESS_HTTP_PROXY_DESTINATION",
    "EGRESS_HTTP_PROXY_DESTINATION_FILE",
    "EGRESS_HTTP_PROXY_PORT",
    "EGRESS_HTTP_PROXY_CONNECT_PORTS",
    "EGRESS_HTTP_PROXY_CONNECT_SNI",
    "EGRESS_HTTP_PROXY_MAX_CLIENTS",
    "EGRESS_HTTP_PROXY_WORKERS",
    "EGRESS_HTTP_PROXY_ACCESS_LOG",
    "EGRESS_HTTP_PROXY_IDLE_TIMEOUT",
    "EGRESS_HTTP_PROXY_IPV6_CLIENTS",
    "EGRESS_HTTP_PROXY_PARENT",
    "EGRESS_HTTP_PROXY_PARENT_FILE",
    "EGRESS_HTTP_PROXY_MODE",
)
DNS_PROXY = (
    "EGRESS_DNS_PROXY_DESTINATION",
    "EGRESS_DNS_PROXY_DESTINATION_FILE",
    "EGRESS_DNS_PROXY_NAMESERVERS",
    "EGRESS_DNS_PROXY_IDLE_TIMEOUT",
    "EGRESS_DNS_PROXY_ACCESS_LOG",
    "EGRESS_DNS_PROXY_DEBUG",
    "EGRESS_DNS_PROXY_MODE",
    "EGRESS_TLS_PROXY_DESTINATION",
    "EGRESS_TLS_PROXY_DESTINATION_FILE",
    "EGRESS_TLS_PROXY_PORTS",
    "EGRESS_TLS_PROXY_HTTP_PORTS",
)
NODE = (
    "EGRESS_NODE",
    "EGRESS_NODE_INTERFACE",
    "EGRESS_TUNNEL_PORT",
    "EGRESS_TUNNEL_ENCRYPTION",
    "EGRESS_WIREGUARD_PORT",
    "EGRESS_PROBE_PORT",
    "EGRESS_AGENT_KEYS",
    "EGRESS_MARK",
    "EGRESS_MARK_SLOTS",
    "EGRESS_NODE_SOCKET",
    "EGRESS_NRI",
    "EGRESS_NRI_SOCKET",
    "EGRESS_STATE_DIR",
    "EGRESS_STATE_SOURCE",
    "EGRESS_API_SERVER",
    "EGRESS_HOST_IPS",
    "EGRESS_LEASE_NAMESPACE",
    "EGRESS_CLUSTER_NETWORKS",
    "EGRESS_CONTROLLER_WITNESSES",
    "EGRESS_CONTROLLER_PAGE",
    "EGRESS_DRAIN_ON_CORDON",
    "EGRESS_STANDBY",
    "EGRESS_HEALTH_ADDRESS",
)
#: Names that another one is looked for; it takes a tenth of a millisecond each.
MOST_SUGGESTIONS = 100
KNOWN = frozenset(ROUTER + HTTP_PROXY + DNS_PROXY + NODE)


def warn_unknown(inputs: Inputs, problems: Problems) -> None:
    """Warn of every EGRESS_* variable that nothing reads, naming the one that was probably meant."""
    for number, name in enumerate(sorted(inputs.env.keys() - KNOWN)):
        # Imported only where there is something to compare: every pod would wait for it.
        from difflib import get_close_matches

        close = get_close_matches(name, KNOWN, n=1, cutoff=0.8) if number < MOST_SUGGESTIONS else []
        problems.warn(name, None, "", "is not a variable of ours", f"{close[0]}?" if close else "")
