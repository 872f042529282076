"""Files of NAME=VALUE lines, as ``podman run --env-file`` and ``docker run --env-file`` take them."""

from __future__ import annotations

from egress_router.errors import ConfigurationError, Problem


def parse_env_file(text: str, label: str) -> dict[str, str]:
    """Return the variables of an env file. In double quotes, backslash n is a line break.

    Raises ConfigurationError naming every line that is not NAME=VALUE.
    """
    found: dict[str, str] = {}
    problems = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().isidentifier():
            problems.append(Problem(label, number, line, "is not NAME=VALUE"))
            continue
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1].replace("\\n", "\n")
        found[name.strip()] = value
    if problems:
        raise ConfigurationError(problems)
    return found
