"""``scripts/test-kernels``: the demo and tests on the kernels of Debian releases, each in a virtual machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from lab.debian_kernels import SUITES, KernelUnavailable, cached, fetch
from lab.side_by_side import side_by_side
from lab.virtual_machine import BootFailed, Outcome, TimedOut, has_kvm, run, to_terminal

CHECKOUT = Path(__file__).resolve().parent.parent
#: Which tests run: those that no other kernel can run, and the cross-section of tests/support/kernels.py.
SELECTION = "distribution_kernel or every_kernel"
#: And with what parameters a kernel is booted once more, for tests that are about that.
MORE_BOOTS = {"ipv6.disable=1": "without_ipv6"}
#: Seconds that a test may take there, by its clock. That goes on while a busy machine keeps it waiting for a file, so
#: the limit of other runs is reached by a test that is well.
TEST_TIMEOUT = 3600
#: And how much longer its commands may take, see lab/patience.py.
SOFTWARE_PATIENCE = 10
#: How pytest runs there: it says which test it is at, and leaves out what costs time at its start.
PYTEST_OPTIONS = (
    "-v",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
    f"--timeout={TEST_TIMEOUT}",
    "--durations=0",
)
#: Exit code of pytest.
NO_TESTS = 5
FAILED = 1
UNAVAILABLE = 69
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
    \b
    Examples:
      scripts/test-kernels
      scripts/test-kernels --kernel 6.12 --only tests -- -k sctp
      scripts/test-kernels --kernel 6.1 --shell 'modprobe sctp && cat /proc/net/sctp/snmp'
    """,
)
@click.option(
    "--kernel", "lines", type=click.Choice(list(SUITES)), multiple=True, help="One of them; both, if not given."
)
@click.option("--only", type=click.Choice(["demo", "tests"]), help="Leave the other out.")
@click.option("--list", "listed", is_flag=True, help="Print kernels and tests, and exit.")
@click.option("--shell", "text", help="Run this shell text there instead.")
@click.option("--boot", "parameters", default="", help="Parameters for the kernel, with --shell.")
@click.option("--update", is_flag=True, help="Look for newer packages of the kernels that are here already.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Directory for logs and results of the tests (JUnit XML)."
)
@click.option(
    "--timeout", type=click.FloatRange(min=1), default=240, show_default=True, help="Minutes a kernel may take."
)
@click.option("--memory", type=click.IntRange(min=1024), default=4096, show_default=True, help="MiB, of each machine.")
@click.option("--one-by-one", is_flag=True, help="Not both kernels at the same time.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def main(
    ctx: click.Context,
    lines: tuple[str, ...],
    only: str | None,
    listed: bool,
    text: str | None,
    parameters: str,
    update: bool,
    results: Path | None,
    timeout: float,
    memory: int,
    one_by_one: bool,
    pytest_arguments: tuple[str, ...],
) -> None:
    """Boot kernels of Debian in QEMU and run the demo and a selection of the kernel tests on them.

    Both at the same time where the machine has a processor for each.
    Each is booted once more with ipv6.disable=1, for the tests that are about that. Arguments after -- go to pytest.
    Exit code 0: all is well; 1: something failed; 69: a kernel could not be fetched or booted.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if listed:
        list_them(pytest_arguments)
        return
    boots = {parameters: text} if text else planned(only, pytest_arguments)
    compile_checkout()
    machine = Machine(boots, results or CHECKOUT / "build" / "kernels", timeout * 60, memory, update)
    chosen = lines or tuple(SUITES)
    try:
        if len(chosen) == 1 or one_by_one or (os.cpu_count() or 1) < len(chosen):
            codes = [machine.try_kernel(line) for line in chosen]
        else:
            found = side_by_side({line: partial(machine.try_kernel, line) for line in chosen}, to_terminal)
            codes = list(found.values())
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the virtual machine is gone", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(UNAVAILABLE if UNAVAILABLE in codes else FAILED if any(codes) else 0)


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs in a virtual machine, by the parameters of its kernel, and what it is like."""

    boots: Mapping[str, str]
    results: Path
    timeout: float
    memory: int
    update: bool

    def try_kernel(self, line: str) -> int:
        """Boot a kernel with each of the parameters, one after the other, and say how it went; return an exit code."""
        failures = []
        for boot, command in self.boots.items():
            label = " ".join(filter(None, (line, boot)))
            try:
                outcome, where = self._boot(line, boot, command)
            except (KernelUnavailable, BootFailed) as error:
                click.echo(f"{label}: {error}", err=True)
                return UNAVAILABLE
            except TimedOut as error:
                click.echo(f"\n>>> {label}: {error}")
                failures.append(label)
                continue
            report(label, outcome, where)
            if outcome.status or outcome.complaints:
                failures.append(label)
        if failures:
            click.echo(f">>> failed: {', '.join(failures)}")
        return FAILED if failures else 0

    def _boot(self, line: str, boot: str, command: str) -> tuple[Outcome, Path]:
        kernel = (None if self.update else cached(line)) or fetch(line)
        how = "KVM" if has_kvm() else "software emulation, about ten times slower than the machine"
        click.echo(f">>> Debian's Linux {kernel.version} ({kernel.release}{boot and ', ' + boot}), QEMU with {how}")
        where = self.results / " ".join(filter(None, (line, boot))).replace(" ", "-")
        where.mkdir(parents=True, exist_ok=True)
        outcome = run(
            kernel,
            command,
            directory=CHECKOUT,
            environment=environment(line, boot),
            results=where,
            parameters=boot,
            timeout=self.timeout,
            memory=self.memory,
            output=to_terminal,
        )
        return outcome, where


def planned(only: str | None, pytest_arguments: tuple[str, ...]) -> dict[str, str]:
    """Return what runs in each boot, by the parameters of the kernel. Raises click.UsageError when nothing would."""
    found = {}
    names = [] if only == "demo" else selected(SELECTION, pytest_arguments)
    if names or only != "tests":
        found[""] = commands(only != "tests", names, pytest_arguments)
    for boot, marker in MORE_BOOTS.items():
        if only != "demo" and (names := selected(marker, pytest_arguments)):
            found[boot] = commands(False, names, pytest_arguments)
    if not found:
        raise click.UsageError("no test is chosen")
    return found


def commands(demo: bool, names: Sequence[str], pytest_arguments: tuple[str, ...]) -> str:
    """Return what runs there: versions of what matters, the demo, the tests. Its status is 0 if all went well."""
    python = shlex.quote(sys.executable)
    steps = ["uname -srv; nft --version; iptables --version; squid -v | head -n 1; haproxy -v | head -n 1", "status=0"]
    if demo:
        steps.append(f"{python} -m lab demo || status=1")
    if names:
        # As on a node where something uses legacy iptables: a kernel loads these for nobody by itself.
        steps.append("modprobe -a ip_tables ip6_tables")
        options = [word for word in pytest_arguments if not (CHECKOUT / word.split("::")[0]).exists()]
        pytest = shlex.join([sys.executable, "-m", "pytest", *PYTEST_OPTIONS, *options, *names])
        steps.append(f'{pytest} --junit-xml="$RESULTS/tests.xml" || status=1')
    return "\n".join([*steps, "exit $status"])


def compile_checkout() -> None:
    """Compile the checkout here: its __pycache__ is seen there, below what is unpacked, and compiling takes minutes."""
    folders = [str(CHECKOUT / name) for name in ("egress_router", "lab", "tests")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=False)


def selected(marker: str, pytest_arguments: tuple[str, ...]) -> list[str]:
    """Return the ids of the tests to run. Found here, since a machine in software takes minutes to look at all files.

    Raises click.UsageError when pytest does not take the arguments.
    """
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-m", marker, *pytest_arguments]
    with tempfile.NamedTemporaryFile() as file:
        variables = {**os.environ, "TEST_KERNEL": "list", "CHOSEN_TESTS": file.name}
        done = subprocess.run(argv, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=False)
        names = Path(file.name).read_text().split("\n")[:-1]
    if done.returncode not in (0, NO_TESTS):
        raise click.UsageError(f"pytest finds no tests:\n{done.stdout}{done.stderr}")
    return names


def environment(line: str, boot: str) -> dict[str, str]:
    """Return the variables that tests see there. TEST_KERNEL says that nothing may be left out for want of a module."""
    patience = "1" if has_kvm() else str(SOFTWARE_PATIENCE)
    return {"TEST_KERNEL": line, "TEST_KERNEL_PARAMETERS": boot, "LAB_PATIENCE": patience}


def report(label: str, outcome: Outcome, where: Path) -> None:
    """Say how it went on a kernel."""
    verdict = "passed" if outcome.status == 0 else "FAILED"
    click.echo(f">>> {label}: {verdict} in {outcome.seconds:.0f} s; logs in {where}")
    for row in outcome.complaints:
        click.echo(f"    the kernel says: {row}")


def list_them(pytest_arguments: tuple[str, ...]) -> None:
    """Print the kernels and the tests that would run."""
    for line, suite in SUITES.items():
        kernel = cached(line)
        click.echo(f"{line:<6} Debian {suite}: {f'{kernel.version} is here' if kernel else 'not fetched yet'}")
    sys.stdout.flush()
    os.environ["TEST_KERNEL"] = "list"
    chosen = " or ".join((SELECTION, *MORE_BOOTS.values()))
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", chosen, *pytest_arguments]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(prog_name="scripts/test-kernels")
