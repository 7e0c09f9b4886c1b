"""score: the command edge-imdb score, and what it shows while it works."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..scoring.options import JobOptions
from ..tasks import DEFAULT_TASK, TASKS
from .common import ModelOptions, add_options, bundle_options, options_of, say

if TYPE_CHECKING:
    from ..tasks.rows import RowOptions

# The exit code of a job that is done, but in which some rows have an error.
BAD_ROWS = 3
# Seconds between two lines if standard error is not a terminal.
_QUIET = 30.0


def _row_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every task's rows; the command gets their values by name in ``rows``."""
    kinds: dict[str, type[RowOptions]] = {}
    for task in TASKS:
        for field in fields(TASKS[task].rows):
            kinds.setdefault(field.name, TASKS[task].rows)

    @functools.wraps(command)
    def grouped(**values: Any) -> None:
        values["rows"] = {name: values.pop(name) for name in kinds}
        command(**values)

    decorated: Callable[..., None] = grouped
    for kind in reversed(list(dict.fromkeys(kinds.values()))):
        decorated = add_options(kind, [name for name, of in kinds.items() if of is kind])(decorated)
    return decorated


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option(
    "--output", metavar="OUT", help="File to write (.parquet, .csv, .tsv, .jsonl); any other name is a folder of parts."
)
@click.option(
    "--task", type=click.Choice(list(TASKS)), default=DEFAULT_TASK, show_default=True, help="Which model to run."
)
@_row_options
@options_of(JobOptions, "job")
@click.option("--json-progress", is_flag=True, help="Print progress and the summary as JSON, one object per line.")
@click.option("--status", "shown", metavar="OUT", help="Show the progress of the job that writes OUT, then exit.")
@bundle_options
def score(
    inputs: tuple[str, ...],
    output: str | None,
    task: str,
    rows: dict[str, Any],
    job: JobOptions,
    json_progress: bool,
    shown: str | None,
    model_options: ModelOptions,
) -> None:
    """Label whole data sets, and continue after an interruption.

    Each INPUT is a .csv, .tsv, .jsonl, .json, .parquet or .txt file of any size, also with .gz or .zst, a folder of
    such files, or a pipe; - is standard input. Every column is kept; label, score and error are added. To continue
    after Ctrl-C or a kill, run the same command again. Exit code 3 means that all is done, but some rows have an error.

    --model also takes a teacher: the folder or the Hub id of any classifier of transformers that has safetensors. It
    runs in PyTorch, on a GPU if there is one, and needs the extra teacher.

    \b
    edge-imdb score reviews/*.parquet --column text --output labelled/
    edge-imdb score reviews.csv.gz --output labelled.csv
    edge-imdb score reviews.jsonl --output labelled/ --ray auto
    edge-imdb score reviews.jsonl --output labelled/ --model teachers/roberta --all-scores
    edge-imdb score --status labelled/
    """
    from .. import scoring

    if shown is not None:
        if inputs or output is not None:
            raise UsageError("--status shows an existing job: leave the inputs and --output out.")
        _show_status(scoring.status(shown), json_progress)
        return
    if not inputs or output is None:
        raise UsageError(
            "Give what to score and where to write it, as in edge-imdb score reviews.csv --output labelled/"
        )
    line = _Lines() if json_progress else _Line()
    _say_at_signals(line)
    try:
        summary = scoring.score(
            inputs,
            output,
            task=task,
            report=line.report,
            say=say,
            model=model_options.folder(task, teachers=True),
            provider=model_options.provider,
            precision=model_options.precision,
            **vars(job),
            **rows,  # type: ignore[typeddict-item]
        )
    finally:
        line.close()
    if json_progress:
        click.echo(json.dumps({"done": True, **vars(summary)}))
    else:
        counts = "".join(f", {count:,} {label}" for label, count in summary.labels.items())
        errors = f", {summary.errors:,} with an error" if summary.errors else ""
        before = "" if summary.labelled == summary.rows else f" ({summary.rows - summary.labelled:,} were already done)"
        rate = f", {summary.labelled / summary.seconds:.1f} rows per second" if summary.labelled else ""
        click.echo(f"{summary.output}: {summary.rows:,} rows{before}{counts}{errors}; {_time(summary.seconds)}{rate}")
    if summary.errors:
        raise SystemExit(BAD_ROWS)


def _say_at_signals(line: _Line | _Lines) -> None:
    """Have Ctrl-C and SIGTERM say at once how to continue, because unwinding waits for the running texts.

    SIGTERM needs a handler for a second reason: the kernel doesn't deliver it without one to the first process of a
    container.
    """

    def stop(number: int, frame: object) -> None:
        line.close()
        say("Stopped. Finished parts are kept: run the same command again to continue.")
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


class _Line:
    """Progress for people: one line that is updated on a terminal, elsewhere a new line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + (0 if self._terminal else _QUIET)
        self._open = False

    def report(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        if now < self._next or record["phase"] == "done":
            return
        self._next = now + (0.2 if self._terminal else _QUIET)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{_progress(record)}")
            sys.stderr.flush()
            self._open = True
        else:
            say(_progress(record))

    def close(self) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False


class _Lines:
    """Progress for programs: one JSON object per line on standard output."""

    def report(self, record: dict[str, Any]) -> None:
        if record["phase"] != "done":
            click.echo(json.dumps(record))

    def close(self) -> None:
        pass


def _progress(record: dict[str, Any]) -> str:
    if record["phase"] == "read":
        return f"counting rows: {record['total']:,}"
    if record["phase"] == "join":
        return "joining the parts"
    text = f"{record['rows']:,} of {record['total']:,} rows ({100 * record['rows'] / record['total']:.1f} %)"
    text += f", {record['parts']:,} of {record['of']:,} parts"
    if record["rows_per_second"]:
        text += f", {record['rows_per_second']:.1f} rows per second, {_time(record['seconds_left'])} left"
    return text + (f", {record['errors']:,} with an error" if record["errors"] else "")


def _show_status(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(record))
        return
    finished = record["parts"] == record["of"]
    state = (
        "running"
        if record["running"]
        else "finished"
        if finished
        else "stopped: run the same command again to continue"
    )
    click.echo(f"{_progress({**record, 'phase': 'score'})}; {state}")


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
