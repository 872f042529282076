"""Where a verb takes the variables from: its environment, ``--env-file`` or ``-f MANIFEST``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from egress_router.config.env_file import parse_env_file
from egress_router.config.inputs import Inputs, Problems, SourceText, load_inputs, read_file_variable
from egress_router.config.manifest import manifest_pods
from egress_router.errors import ConfigurationError, Problem, UsageError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """Variables, and a name for where they come from; ``here`` when it is this process's environment."""

    name: str
    inputs: Inputs
    here: bool


def source_options(command: F) -> F:
    """Add ``--env-file`` and ``-f/--filename`` to a command."""
    command = click.option(
        "-f",
        "--filename",
        "manifest",
        metavar="MANIFEST",
        help="Take the variables of the containers in this YAML manifest ('-': standard input).",
    )(command)
    return click.option(
        "--env-file",
        metavar="FILE",
        help="Take the variables from this file of NAME=VALUE lines ('-': standard input).",
    )(command)


def read_sources(env_file: str | None, manifest: str | None, problems: Problems) -> list[Source]:
    """Return the variables, one Source for each pod. Raises ConfigurationError, and UsageError for both options."""
    if env_file is not None and manifest is not None:
        raise UsageError("--env-file and -f exclude each other")
    if manifest is not None:
        pods = manifest_pods(_read(manifest), manifest, problems)
        return [Source(pod.name, pod.inputs, here=False) for pod in pods]
    if env_file is not None:
        return [Source(env_file, load_inputs(parse_env_file(_read(env_file), env_file)), here=False)]
    return [Source("environment", load_inputs(os.environ), here=True)]


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    found = read_file_variable(name, str(Path(name)))
    if isinstance(found, SourceText):
        return found.text
    raise ConfigurationError([Problem(found.variable, found.line, "", found.message, found.expected)])
