"""The error tree. The exit code stands on the class; docs/exit-codes.md lists the same codes.

::

    EgressRouterError            70  a fault of ours, or a case nobody foresaw
    ├── ConfigurationError       78  the person who wrote the EGRESS_* variables must act
    ├── UsageError                2  the person who typed the command must act
    ├── PlatformError            69  a kernel feature, a device or a tool is missing
    │   └── ToolFailed           69  a child process failed; its command and stderr are kept
    ├── CapabilityError          77  the container lacks a capability
    └── TryAgainError            75  the world may be different in a moment
        ├── AddressInUse         75  another machine answers for the address
        └── StateMismatch        75  what was read back is not what was applied

Exit codes follow sysexits(3) where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from egress_router.records import dataclass

#: Messages that start so go on from the quoted text; others stand for themselves.
_VERBS = frozenset({"are", "can", "cannot", "claims", "comes", "has", "is", "maps", "never", "stands"})


#: Characters of a sentence with text of somebody else in it.
MOST_OF_A_SENTENCE = 1000
#: Problems in the text of one error, and characters of what a tool reason.
MOST_PROBLEMS, MOST_OF_A_TOOL = 100, 4000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration.

    ``variable`` is the variable (or file) it stands in, ``line`` its 1-based line there or None when the value
    is a single one, ``text`` the offending text as written, ``message`` what is wrong, ``expected`` what would
    be right.
    """

    variable: str
    line: int | None
    text: str
    message: str
    expected: str = ""

    def __str__(self) -> str:
        where = self.variable if self.line is None else f"{self.variable} line {self.line}"
        expected = f" ({self.expected})" if self.expected else ""
        text, message = quoted(self.text), printable(self.message, MOST_OF_A_SENTENCE)
        if not self.text or message.startswith(text):
            return f"{where}: {message}{expected}"
        colon = "" if message.split(" ", 1)[0] in _VERBS else ":"
        return f"{where}: {text}{colon} {message}{expected}"


def printable(text: str, limit: int = 200) -> str:
    """Return ``text`` safe for one line of a log: control characters escaped, cut at ``limit`` characters."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def described(value: object) -> str:
    """Return data of somebody else for a message: a scalar as text, printable and cut; of a list or a mapping only what
    it is, for it may hold half a million values.
    """
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    return printable(str(value))


def quoted(text: str) -> str:
    """Return ``text`` in double quotes, printable; for messages, which may end up on a terminal."""
    return f'"{printable(text)}"'


def few(texts: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Return texts for a sentence: the first ``most``, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


class EgressRouterError(Exception):
    """Base of all errors that we raise ourselves."""

    exit_code = 70


class ConfigurationError(EgressRouterError):
    """The configuration cannot be used. Nothing was changed. ``problems`` lists everything that was found,
    variable by variable and line by line.
    """

    exit_code = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        order = {name: index for index, name in reversed(list(enumerate(p.variable for p in problems)))}
        self.problems = tuple(sorted(problems, key=lambda p: (order[p.variable], p.line or 0)))
        count = len(self.problems)
        head = "1 problem" if count == 1 else f"{count} problems"
        # The text goes into logs and answers, again and again; who wants all has ``problems``.
        shown = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        shown += [f"and {count - MOST_PROBLEMS} more (egress-router check -o json has all)"] * (count > MOST_PROBLEMS)
        super().__init__("\n  ".join([f"{head} in the configuration; nothing was changed", *shown]))


class UsageError(EgressRouterError):
    """The command line asks for something that does not exist."""

    exit_code = 2

    def __init__(self, text: str) -> None:
        # What was typed stands in it, and ends up on a terminal.
        super().__init__("\n".join(printable(line, MOST_OF_A_SENTENCE) for line in text.split("\n")))


class PlatformError(EgressRouterError):
    """The kernel, the pod or the image lacks something that is needed; the message says what and how to get it."""

    exit_code = 69


class ToolFailed(PlatformError):
    """A child process failed. Keeps its command, exit status and standard error."""

    def __init__(self, command: Sequence[str], status: int | str, stderr: str) -> None:
        self.command = tuple(command)
        self.status = status
        self.stderr = stderr
        #: What it was asked about is not there, in the words of nft(8).
        self.absent = "No such file or directory" in stderr
        reason = _cut(stderr.strip(), MOST_OF_A_TOOL) or "no error text"
        super().__init__(f"`{' '.join(self.command)}` failed ({status}): {reason}")


class ToolHangs(ToolFailed):
    """A child process did not end within its time and was killed: what it was to do may be done or not."""


class CapabilityError(EgressRouterError):
    """The process lacks a Linux capability; the message names it and the manifest field that grants it."""

    exit_code = 77


class TryAgainError(EgressRouterError):
    """Something outside this process is in the way and may go away."""

    exit_code = 75


class AddressInUse(TryAgainError):
    """Another machine answers for an address that should become ours (RFC 5227, RFC 4862).

    ``asked``: it only asks whether the address is free, as we do.
    """

    def __init__(self, message: str, *, asked: bool = False) -> None:
        super().__init__(message)
        self.asked = asked


class StateMismatch(TryAgainError):
    """What was read back differs from what was applied; the message holds a unified diff."""
