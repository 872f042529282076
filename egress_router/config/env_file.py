"""Files of NAME=VALUE lines, as ``podman run --env-file`` and ``docker run --env-file`` take them."""

from __future__ import annotations

import re

from egress_router.errors import ConfigurationError, Problem

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
EXPECTED = 'such as EGRESS_SOURCE=192.0.2.46, or EGRESS_DESTINATION="80 tcp 203.0.113.25\\n203.0.113.27"'


def parse_env_file(text: str, label: str) -> dict[str, str]:
    """Return the variables of an env file. In double quotes, backslash n is a line break; blank lines and lines that
    start with ``#`` are skipped; a later line wins over an earlier one with the same name.

    Raises ConfigurationError naming every line that is not NAME=VALUE.
    """
    found: dict[str, str] = {}
    problems = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _NAME.fullmatch(name.strip()):
            problems.append(Problem(label, number, line, "is not NAME=VALUE", EXPECTED))
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1].replace("\\n", "\n")
        found[name.strip()] = value
    if problems:
        raise ConfigurationError(problems)
    return found
