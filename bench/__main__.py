"""``scripts/bench``: measure, and write the report."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import click

from bench import machine, margins
from bench.figures import Samples
from bench.harness import Progress, Run
from bench.questions import questions
from bench.results import Measured, Results
from bench.write import write_report

CHECKOUT = Path(__file__).parents[1]
#: The report that is committed, and where everything that is not whole goes.
COMMITTED, UNFINISHED = CHECKOUT, CHECKOUT / "build/bench"
NO_PERMISSION, INTERRUPTED = 77, 130
MARGINS = margins.read_margins(margins.FILE.read_text())


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""
    \b
    Examples:
      sudo scripts/bench                        everything; docs/performance.md and bench/results.json are written anew
      sudo scripts/bench --quick                two minutes; exit code 1 when a margin of bench/margins.toml is passed
      sudo scripts/bench --only start-up --only packets
      scripts/bench --report                    docs/performance.md anew from bench/results.json, nothing measured
    """,
)
@click.option("--only", "names", multiple=True, metavar="QUESTION", help="Measure only this; may be repeated.")
@click.option("--list", "listed", is_flag=True, help="List the questions and exit.")
@click.option("--quick", is_flag=True, help="Few sizes and rounds; compare with the margins, exit 1 on a regression.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Write docs/ and bench/ below here.")
@click.option(
    "--keep", type=click.Path(path_type=Path, exists=True), help="Take what is not measured now from these results."
)
@click.option("--report", is_flag=True, help="Measure nothing: write the report of bench/results.json, or of --keep.")
@click.option("--program", default="", help="The egress-router to start; default: this checkout, by this Python.")
@click.pass_context
def main(
    ctx: click.Context,
    names: tuple[str, ...],
    listed: bool,
    quick: bool,
    output: Path | None,
    keep: Path | None,
    report: bool,
    program: str,
) -> None:
    """Measure what the project claims, each figure beside a baseline in the same run. Needs root.

    The whole run writes docs/performance.md, its plots and bench/results.json. What is not whole (--only, --quick, a
    run that was interrupted) goes to build/bench, or to --output; --keep makes a part whole again.
    """
    known = questions()
    if listed:
        for name, question in known.items():
            click.echo(f"{name:<12} {question.title}")
        return
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"no such question: {', '.join(unknown)} (there are: {', '.join(known)})")
    results = Results.read(keep or COMMITTED / "bench/results.json") if keep or report else Results()
    if report:
        click.echo(f"written: {write_report(results, output or COMMITTED)}")
        return
    if os.geteuid() != 0:
        click.echo("the lab makes network namespaces, which needs root", err=True)
        ctx.exit(NO_PERMISSION)
    command = shlex.split(program) or [sys.executable, "-m", "egress_router"]
    # A quick run is for the margins: what has none can wait for the whole run.
    wanted = names or (MARGINS if quick else known)
    ctx.exit(_measure(results, [name for name in known if name in wanted], quick, command, output))


def _measure(results: Results, names: list[str], quick: bool, command: list[str], output: Path | None) -> int:
    """Measure these questions into ``results`` and write what came of it; return the exit code."""
    results.quick = quick
    results.machine = machine.facts()
    began = time.monotonic()
    status = 0
    try:
        for number, name in enumerate(names, start=1):
            progress = Progress(name, number, len(names), began)
            if not _measure_one(results, name, Run(Samples(), progress, quick, command)):
                status = 1
    except KeyboardInterrupt:
        click.echo("\ninterrupted; the labs are gone", err=True)
        status = INTERRUPTED
    finally:
        results.write(UNFINISHED / "bench/results.json")
    print(file=sys.stderr)
    whole = not status and not quick and questions().keys() == results.questions.keys()
    place = output or (COMMITTED if whole else UNFINISHED)
    click.echo(f"measured in {(time.monotonic() - began) / 60:.1f} min; written: {write_report(results, place)}")
    if not quick or status:
        return status
    table, good = margins.judge(MARGINS, results)
    click.echo(table)
    return 0 if good else 1


def _measure_one(results: Results, name: str, run: Run) -> bool:
    """Measure a question; what it has measured stays, however it ends. Return whether it has ended well."""
    measured = Measured(run.samples, f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", load=machine.load())
    results.questions[name] = measured
    began = time.monotonic()
    try:
        questions()[name].measure(run)
        measured.complete = True
    except Exception:  # noqa: BLE001 - the other questions still have their answers
        traceback.print_exc()
        click.echo(f"{name} could not be measured; see above", err=True)
    finally:
        measured.seconds = time.monotonic() - began
    return measured.complete


if __name__ == "__main__":
    main(prog_name="scripts/bench")
