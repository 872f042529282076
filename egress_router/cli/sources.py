"""Where a verb takes the variables from: its environment, ``--env-file`` or ``-f MANIFEST``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import click

from egress_router.cli.output import print_warnings
from egress_router.config.inputs import (
    Inputs,
    Problems,
    SourceText,
    decoded,
    load_inputs,
    parse_env_file,
    read_file_variable,
)
from egress_router.config.manifest import manifest_pods
from egress_router.errors import ConfigurationError, Problem, UsageError
from egress_router.manifests.pod import PodConfig, parse_pod

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Source:
    """Variables, and a name for where they come from; ``here`` when it is this process's environment.

    ``outside`` says of variables that a manifest takes from elsewhere where that is.
    """

    name: str
    inputs: Inputs
    here: bool
    outside: dict[str, str] = field(default_factory=dict)


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
        pods = manifest_pods(read_text(manifest), manifest, problems)
        return [Source(pod.name, pod.inputs, here=False, outside=pod.outside) for pod in pods]
    if env_file is not None:
        return [Source(env_file, load_inputs(parse_env_file(read_text(env_file), env_file)), here=False)]
    return [Source("environment", load_inputs(os.environ), here=True)]


def read_pods(env_file: str | None, manifest: str | None) -> list[tuple[Source, PodConfig]]:
    """Return the configuration of each pod and print the warnings. Raises ConfigurationError with all problems of all
    pods, and UsageError for both options.
    """
    problems = Problems()
    found = parse_sources(read_sources(env_file, manifest, problems), problems)
    print_warnings(problems.warnings)
    problems.raise_if_any()
    return found


def parse_sources(sources: list[Source], problems: Problems) -> list[tuple[Source, PodConfig]]:
    """Return the sources whose variables are right with what they say, and note the problems of the others. Where there
    are several pods, each problem names its own.
    """
    found: list[tuple[Source, PodConfig]] = []
    for source in sources:
        own = Problems()
        try:
            found.append((source, parse_pod(source.inputs, own)))
        except ConfigurationError as error:
            own.errors = [_explained(problem, source) for problem in error.problems]
        for kind, mine in ((problems.errors, own.errors), (problems.warnings, own.warnings)):
            kind += [replace(p, variable=f"{source.name} {p.variable}") if len(sources) > 1 else p for p in mine]
    return found


def _explained(problem: Problem, source: Source) -> Problem:
    if problem.message == "is not set" and problem.variable in source.outside:
        where = source.outside[problem.variable]
        return replace(problem, message=f"comes from {where}", expected="put it into the same file to have it read")
    return problem


def read_text(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``. Raises ConfigurationError."""
    found = decoded("standard input", name, sys.stdin.buffer.read()) if name == "-" else read_file_variable(name, name)
    if isinstance(found, SourceText):
        return found.text
    raise ConfigurationError([replace(found, text="")])
