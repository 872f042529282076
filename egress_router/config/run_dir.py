"""Where a process may write: EGRESS_RUN_DIR. Apart from the other settings, for what has none does without pathlib."""

from __future__ import annotations

from pathlib import Path

from egress_router.config.inputs import Inputs, Problems
from egress_router.config.patterns import pattern

RUN_DIR = "EGRESS_RUN_DIR"
#: Its default: the one directory of a proxy that must be writable.
DEFAULT_RUN_DIR = Path("/run/egress-router")
#: What stands in configuration files of Squid and HAProxy without quotes.
_DIRECTORY = r"(?:/[A-Za-z0-9_.@+-]+)+"


def parse_run_dir(inputs: Inputs, problems: Problems, most: int) -> Path:
    """Return EGRESS_RUN_DIR; what is no plain absolute path of at most ``most`` characters is noted, and the default
    then.
    """
    text = inputs.value(RUN_DIR)
    if text is None:
        return DEFAULT_RUN_DIR
    path = text.rstrip("/")
    expected = f"an absolute path of at most {most} characters, such as {DEFAULT_RUN_DIR}"
    if not pattern(_DIRECTORY).fullmatch(path):
        message = "is not a path of letters, digits and _ . - @ + between slashes"
        problems.error(RUN_DIR, None, text, message, expected)
    elif not {".", ".."}.isdisjoint(path.split("/")):
        problems.error(RUN_DIR, None, text, "has . or .. as a part", expected)
    elif len(path) > most:
        problems.error(RUN_DIR, None, text, f"has {len(path)} characters", expected)
    else:
        return Path(path)
    return DEFAULT_RUN_DIR
