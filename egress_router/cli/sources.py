"""Where a verb takes the variables from: its environment, ``--env-file`` or ``-f MANIFEST``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from egress_router.cli.output import print_warnings
from egress_router.config.inputs import (
    MAX_FILE_BYTES,
    Inputs,
    Problems,
    SourceText,
    decoded,
    load_inputs,
    parse_env_file,
    read_file_variable,
)
from egress_router.daemon import running
from egress_router.errors import ConfigurationError, Problem, UsageError
from egress_router.manifests.containers import ManifestPod, manifest_pods
from egress_router.manifests.forms import explained, from_elsewhere
from egress_router.manifests.judge import judge_pods
from egress_router.manifests.objects import Objects, read_objects
from egress_router.manifests.pod import PodConfig, parse_manifest_pod, parse_pod
from egress_router.manifests.unprocessed import no_pods, warn_unprocessed

F = TypeVar("F", bound=Callable[..., Any])
_LIST = ("EGRESS_DESTINATION", "EGRESS_DESTINATION_FILE")
SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """Variables, and a name for where they come from; ``here`` when it is this process's environment.

    ``pod`` is the manifest's, and ``objects`` all that stands beside it, None where the variables come from elsewhere.
    ``outside`` says of variables that a manifest takes from elsewhere where that is.
    """

    name: str
    inputs: Inputs
    here: bool
    outside: dict[str, str] = field(default_factory=dict)
    pod: ManifestPod | None = None
    objects: Objects | None = None


def source_options(command: F) -> F:
    """Add ``--env-file FILE`` and ``-f FILE``."""
    command = click.option(
        "-f",
        "--filename",
        "manifests",
        metavar="FILE",
        multiple=True,
        help="Take the variables of the containers in this YAML or JSON manifest ('-': standard input), or in the "
        "files of this directory. May be repeated: ConfigMaps and Secrets are found across files.",
    )(command)
    return click.option(
        "--env-file",
        metavar="FILE",
        help="Take the variables from this file of NAME=VALUE lines ('-': standard input).",
    )(command)


def old_options(command: F) -> F:
    """Add what is migrated: ``OLD.yaml…`` as ``old``, and ``-f FILE`` as ``named_files``."""
    command = click.option(
        "-f",
        "--filename",
        "named_files",
        metavar="FILE",
        multiple=True,
        help="The same as OLD.yaml, as the other verbs have it. May be repeated.",
    )(command)
    return click.argument("old", metavar="[OLD.yaml…]", nargs=-1)(command)


def read_sources(
    env_file: str | None, manifests: Sequence[str], problems: Problems, *, judge: bool = False
) -> list[Source]:
    """Return the variables, one Source for each pod. With ``judge``, note what keeps the pods from working too.

    Raises ConfigurationError, and UsageError for both options.
    """
    if env_file is not None and manifests:
        raise UsageError("--env-file and -f exclude each other")
    if manifests:
        objects = read_manifests(manifests, problems)
        pods = manifest_pods(objects, problems)
        if not pods and not problems.errors:
            raise no_pods(objects, manifests, "check")
        warn_unprocessed(objects, problems)
        if judge:
            judge_pods(pods, objects, problems)
        return [
            Source(pod.name, Inputs(pod.env), here=False, outside=pod.outside, pod=pod, objects=objects) for pod in pods
        ]
    if env_file is not None:
        return [Source(env_file, load_inputs(parse_env_file(read_text(env_file), env_file)), here=False)]
    return [Source("environment", load_inputs(os.environ), here=True)]


def read_manifests(names: Sequence[str], problems: Problems) -> Objects:
    """Return the objects of files, of standard input (``-``), and of the files of directories."""
    return read_objects(read_texts(names, problems), problems)


def read_texts(names: Sequence[str], problems: Problems) -> list[SourceText]:
    """Return the texts of files, of standard input (``-``), and of the files of directories, under their names."""
    texts: list[SourceText] = []
    for name in dict.fromkeys(names):
        if not name:
            raise UsageError("-f has an empty name")
        if name != "-" and Path(name).is_dir():
            try:
                inside = sorted(
                    path for path in Path(name).iterdir() if path.suffix in SUFFIXES and path.name[0] != "."
                )
            except OSError as error:
                problems.error(name, None, "", f"cannot be read: {error.strerror}", "a directory of manifests")
                continue
            if not inside:
                message = "is a directory without .yaml, .yml or .json files"
                problems.error(name, None, "", message, "subdirectories are not looked into")
            chosen = [str(path) for path in inside]
        else:
            chosen = [name]
        for one in chosen:
            found = _read(one, named=chosen == [name])
            if isinstance(found, SourceText):
                texts.append(SourceText(one, found.text))
            else:
                expected = (
                    found.expected if "UTF-8" in found.message else "a file of YAML or JSON, or a directory of them"
                )
                problems.errors.append(replace(found, text="", expected=expected))
    return texts


def read_pods(env_file: str | None, manifests: Sequence[str]) -> list[tuple[Source, PodConfig]]:
    """Return the configuration of each pod and print the warnings. Raises ConfigurationError with all problems of all
    pods, and UsageError for both options.
    """
    problems = Problems()
    found = parse_sources(read_sources(env_file, manifests, problems), problems)
    print_warnings(problems.warnings)
    problems.raise_if_any()
    return found


def read_pods_in_force(
    env_file: str | None, manifests: Sequence[str], *, tell: bool = True
) -> list[tuple[Source, PodConfig]]:
    """Do as ``read_pods``; in a pod whose router has refused its list, say what is wrong with that list (if ``tell``),
    and return the configuration with the one that is in force.
    """
    try:
        return read_pods(env_file, manifests)
    except ConfigurationError as error:
        # Only a file can have changed since the router that runs has read it.
        here = env_file is None and not manifests and bool(os.environ.get("EGRESS_DESTINATION_FILE"))
        text = running.list_in_force(running.port_of(os.environ)) if here else None
        if text is None:
            raise
        own = Problems()
        env = {name: value for name, value in os.environ.items() if name not in _LIST} | {"EGRESS_DESTINATION": text}
        found = parse_sources([Source("environment", load_inputs(env), here=True)], own)
        if own.errors:
            raise
        if tell:
            click.echo("the list is refused, and the one before it is in force:", err=True)
            for problem in error.problems:
                click.echo(f"  {problem}", err=True)
        return found


def parse_sources(sources: list[Source], problems: Problems) -> list[tuple[Source, PodConfig]]:
    """Return the sources whose variables are right with what they say, and note the problems of the others. Where there
    are several pods, each problem names its own.
    """
    found: list[tuple[Source, PodConfig]] = []
    for source in sources:
        own = Problems()
        try:
            config = parse_pod(source.inputs, own) if source.pod is None else parse_manifest_pod(source.pod, own)
            found.append((source, config))
        except ConfigurationError as error:
            own.errors = [*_no_variables(source), *(_explained(problem, source) for problem in error.problems)]
        for kind, mine in ((problems.errors, own.errors), (problems.warnings, own.warnings)):
            kind += [replace(p, variable=f"{source.name} {p.variable}") if len(sources) > 1 else p for p in mine]
    return found


def _no_variables(source: Source) -> Iterator[Problem]:
    """Yield the likely cause of all other problems where this is no router's container."""
    if source.here and not any(name.startswith("EGRESS_") for name in source.inputs.env):
        message = "has no EGRESS_* variable"
        expected = "-f MANIFEST or --env-file FILE, or run it in the router's container"
        yield Problem(source.name, None, "", message, expected)


def _explained(problem: Problem, source: Source) -> Problem:
    """Say of a problem what its cause is, where the variables tell."""
    if problem.message == "is not set" and problem.variable in source.outside:
        where = source.outside[problem.variable]
        return replace(problem, message=f"comes from {where}", expected=from_elsewhere(where))
    return explained(problem)


def read_text(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``. Raises ConfigurationError."""
    found = _read(name)
    if isinstance(found, SourceText):
        return found.text
    raise ConfigurationError([replace(found, text="")])


def _read(name: str, *, named: bool = True) -> SourceText | Problem:
    """Read a file; one that a person has ``named`` may be a pipe, as ``<(kubectl get …)`` of a shell is."""
    if name == "-":
        return decoded("standard input", name, sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
    return read_file_variable(name, name, regular=not named)
