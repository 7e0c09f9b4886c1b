"""score: the command edge-imdb score, and what it shows while it works."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

import click

from ..errors import UsageError
from ..tasks import TASKS
from .common import EXACT, SLIDING_WINDOWS, ModelOptions, bundle_options, say

# The exit code of a job that is done, but in which some rows have an error.
BAD_ROWS = 3
# Seconds between two lines if standard error is not a terminal.
_QUIET = 30.0


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option(
    "--output", metavar="OUT", help="File to write (.parquet, .csv, .tsv, .jsonl); any other name is a folder of parts."
)
@click.option("--column", default="text", show_default=True, help="Column that holds the texts.")
@click.option(
    "--task", type=click.Choice(list(TASKS)), default="sentiment", show_default=True, help="Which model to run."
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of words for each mask, in fill-mask.",
)
@click.option("--explain", type=click.IntRange(min=1), metavar="N", help="Add the N words that decided most.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Label rows with a lower score unsure.",
)
@click.option(
    "--input-format",
    type=click.Choice(["csv", "tsv", "jsonl", "json", "parquet", "text"]),
    help="Format of the inputs.  [default: by their extension; text for standard input]",
)
@click.option(
    "--output-format",
    type=click.Choice(["parquet", "csv", "tsv", "jsonl"]),
    help="Format of the parts in a folder.  [default: parquet]",
)
@click.option("--prefix", help="Prefix of the added columns.  [default: predicted_ if a name is taken]")
@click.option(
    "--part-rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Rows per part. After a kill, unfinished parts are labelled again.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of texts to label at the same time; with --ray, of actors.  [default: one per core; with --ray, all "
    "free CPUs but one]",
)
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of writing it with its error.")
@click.option("--overwrite", is_flag=True, help="Replace the output of another job.")
@click.option("--ray", metavar="ADDRESS", help="Label on a Ray cluster: auto, local, or its address.")
@click.option("--json-progress", is_flag=True, help="Print progress and the summary as JSON, one object per line.")
@click.option("--status", "shown", metavar="OUT", help="Show the progress of the job that writes OUT, then exit.")
@EXACT
@SLIDING_WINDOWS
@bundle_options
def score(
    inputs: tuple[str, ...],
    output: str | None,
    column: str,
    task: str,
    top_k: int,
    explain: int | None,
    min_score: float,
    input_format: str | None,
    output_format: str | None,
    prefix: str | None,
    part_rows: int,
    workers: int | None,
    strict: bool,
    overwrite: bool,
    ray: str | None,
    json_progress: bool,
    shown: str | None,
    exact: bool,
    sliding_windows: bool,
    model_options: ModelOptions,
) -> None:
    """Label whole data sets, and continue after an interruption.

    Each INPUT is a .csv, .tsv, .jsonl, .json, .parquet or .txt file of any size, also with .gz or .zst, or a folder of
    such files; - is standard input. Every column is kept; label, score and error are added. To continue after Ctrl-C or
    a kill, run the same command again. Exit code 3 means that all is done, but some rows have an error.

    \b
    edge-imdb score reviews/*.parquet --column text --output labelled/
    edge-imdb score reviews.csv.gz --output labelled.csv
    edge-imdb score reviews.jsonl --output labelled/ --ray auto
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
    _say_at_ctrl_c(line)
    try:
        summary = scoring.score(
            inputs,
            output,
            column=column,
            task=task,
            model=model_options.folder(task),
            provider=model_options.provider,
            precision=model_options.precision,
            exact=exact,
            sliding_windows=sliding_windows,
            top_k=top_k,
            explain=explain,
            min_score=min_score,
            workers=workers,
            part_rows=part_rows,
            prefix=prefix,
            input_format=input_format,
            output_format=output_format,
            strict=strict,
            overwrite=overwrite,
            ray=ray,
            report=line.report,
            say=say,
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


def _say_at_ctrl_c(line: _Line | _Lines) -> None:
    """Have Ctrl-C say at once how to continue, because unwinding waits for the running texts and may be cut short."""

    def stop(number: int, frame: object) -> None:
        line.close()
        say("Stopped. Finished parts are kept: run the same command again to continue.")
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


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
