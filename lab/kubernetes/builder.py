"""Builds what is missing in the cache, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.kubernetes import golang, gomod
from lab.kubernetes.cache import Say, folder, locked, publish, unfinished
from lab.kubernetes.errors import MissingError, UsageError
from lab.kubernetes.recipes import SOURCES, Recipe

#: Seconds for one recipe; cold, `kube` takes about five minutes on two cores.
LIMIT = 1800.0
#: Seconds between two lines of progress.
PROGRESS = 10.0


def built(recipe: Recipe, cache: Path | None = None) -> bool:
    """Return whether the programs of a recipe are there."""
    return ((cache or folder()) / recipe.folder).is_dir()


def ensure(recipes: Iterable[Recipe], say: Say, cache: Path | None = None) -> dict[str, Path]:
    """Return the path of every program of the recipes, by its name; what is missing is built, one after another.

    Two callers at once wait for each other. Raises MissingError with the reason when a build fails.
    """
    cache = cache or folder()
    wanted = list(recipes)
    if any(not built(recipe, cache) for recipe in wanted):
        with locked(cache, say):
            for recipe in wanted:
                if not built(recipe, cache):
                    _build(recipe, cache, say)
    return {program: cache / recipe.folder / program for recipe in wanted for program in recipe.programs}


def _build(recipe: Recipe, cache: Path, say: Say) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+", recipe.version):
        raise UsageError(f"{recipe.version} is no version of {recipe.name} (such as 1.37.2)")
    for header, package in recipe.needs:
        if not any(Path(place, header).exists() for place in ("/usr/include", "/usr/local/include")):
            raise MissingError(
                f"{recipe.name} is built with {header}, which is not there (Debian: apt-get install {package})"
            )
    started = time.monotonic()
    with unfinished(cache) as place:
        out = place / "out"
        out.mkdir()
        say(f"building {recipe.name} {recipe.version}")
        if recipe.packages:
            go = golang.find(cache, (1, 26), say)
            command = [go, "install", "-v", *recipe.flags, *recipe.packages]
            _go(recipe, command, place, say, {"GOBIN": str(out), **dict(recipe.environment)})
        else:
            _build_main(recipe, place, out, cache, say)
        missing = [program for program in recipe.programs if not (out / program).is_file()]
        if missing:
            raise MissingError(f"the build of {recipe.name} {recipe.version} left no {', '.join(missing)}")
        size = sum((out / program).stat().st_size for program in recipe.programs)
        publish(out, cache / recipe.folder)
    say(f"built {recipe.name} {recipe.version} in {time.monotonic() - started:.0f} s, {size / 1e6:.0f} MB")


def _build_main(recipe: Recipe, place: Path, out: Path, cache: Path, say: Say) -> None:
    go = golang.find(cache, (1, 21), say)
    upstream = _upstream_go_mod(go, recipe, place)
    go = golang.find(cache, gomod.go_version(upstream), say)
    for name in recipe.sources:
        shutil.copy(SOURCES / name, place)
    (place / "go.mod").write_text(gomod.go_mod(recipe.module, recipe.version, upstream))
    command = [go, "build", "-v", "-mod=mod", *recipe.flags, "-o", str(out / recipe.programs[0]), "."]
    _go(recipe, command, place, say, dict(recipe.environment))


def _upstream_go_mod(go: str, recipe: Recipe, place: Path) -> str:
    """Return the go.mod of the module that a program is made of."""
    command = [go, "list", "-m", "-json", f"{recipe.module}@v{recipe.version}"]
    done = subprocess.run(
        command, cwd=place, env=golang.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise MissingError(f"{recipe.module} {recipe.version} cannot be had as a Go module: {done.stderr.strip()}")
    return Path(json.loads(done.stdout)["GoMod"]).read_text()


def _go(recipe: Recipe, command: Sequence[str], place: Path, say: Say, environment: dict[str, str]) -> None:
    """Run `go`, which prints the name of each package that it compiles, and report on it now and then."""
    log = place / "log"
    deadline = time.monotonic() + LIMIT
    with log.open("w") as file:
        process = subprocess.Popen(
            # Should this process be killed, the build goes too.
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            cwd=place,
            env=golang.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            _watch(recipe, process, log, deadline, say)
        except BaseException:
            os.killpg(process.pid, 9)
            process.wait()
            raise
    if process.returncode != 0:
        # Lines of the compiler and of the module loader, without the names of packages that went well.
        told = [line for line in log.read_text().splitlines() if not re.fullmatch(r"[\w./~-]+", line)]
        raise MissingError(f"{recipe.name} {recipe.version} could not be built:\n" + "\n".join(told[-20:]))


def _watch(recipe: Recipe, process: subprocess.Popen[bytes], log: Path, deadline: float, say: Say) -> None:
    started = time.monotonic()
    while True:
        try:
            process.wait(PROGRESS)
        except subprocess.TimeoutExpired:
            compiled = sum(1 for line in log.read_text().splitlines() if re.fullmatch(r"[\w./~-]+", line))
            say(f"  {recipe.name}: {compiled} packages compiled, {time.monotonic() - started:.0f} s")
            if time.monotonic() > deadline:
                raise MissingError(f"{recipe.name} {recipe.version} was not built within {LIMIT:.0f} s") from None
        else:
            return
