"""JobOptions and ScoreArguments: the options of a scoring job."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from ..data.tables import INPUT_FORMATS
from ..errors import UsageError
from ..options import option
from ..runtime.options import RuntimeOptions
from ..tasks import TASKS
from ..tasks.rows import row_options
from .formats import OUTPUT_FORMATS
from .labels import Options

# A core labels this many reviews in some ten seconds: that much work is lost by a kill.
PART_ROWS = 1000


@dataclass(frozen=True)
class JobOptions:
    """How a job reads, divides and writes its rows. Raises UsageError if a value is out of range.

    >>> JobOptions().column
    'text'
    """

    column: str = option("text", "Column that holds the texts.")
    input_format: str | None = option(
        None,
        "Format of the inputs.  [default: by their extension; without one, text]",
        tuple(dict.fromkeys(INPUT_FORMATS.values())),
    )
    delimiter: str | None = option(None, "Delimiter of .csv and .tsv inputs.  [default: comma for .csv, tab for .tsv]")
    output_format: str | None = option(None, "Format of the parts in a folder.  [default: parquet]", OUTPUT_FORMATS)
    prefix: str | None = option(None, "Prefix of the added columns.  [default: predicted_ if a name is taken]")
    part_rows: int = option(PART_ROWS, "Rows per part. After a kill, unfinished parts are labelled again.", least=1)
    workers: int | None = option(
        None,
        "Number of texts to label at the same time; with --ray, of actors.  [default: one per core; with --ray, all "
        "free CPUs but one]",
        least=1,
    )
    strict: bool = option(False, "Stop at the first bad row instead of writing it with its error.")
    overwrite: bool = option(False, "Replace the output of another job.")
    ray: str | None = option(None, "Label on a Ray cluster: auto, local, or its address.", metavar="ADDRESS")

    def __post_init__(self) -> None:
        for name in ("part_rows", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be 1 or more.")


class ScoreArguments(TypedDict, total=False):
    """The keyword arguments of ``score`` that are fields of JobOptions, of RuntimeOptions or of a task's RowOptions."""

    column: str
    input_format: str | None
    delimiter: str | None
    output_format: str | None
    prefix: str | None
    part_rows: int
    workers: int | None
    strict: bool
    overwrite: bool
    ray: str | None
    model: str | os.PathLike[str] | None
    provider: str
    precision: str
    exact: bool
    sliding_windows: bool
    explain: int | None
    min_score: float
    all_scores: bool
    temperature: float
    top_k: int


def sort_arguments(task: str, arguments: dict[str, Any]) -> tuple[JobOptions, Options]:
    """Sort the keyword arguments of ``score`` into its options.

    Raises UsageError if a value is wrong or belongs to another task, TypeError if there is no such argument.

    >>> job, options = sort_arguments("fill-mask", {"column": "review", "top_k": 3})
    >>> job.column, options.columns
    ('review', ('fills', 'error'))
    """
    job = {field.name: arguments.pop(field.name) for field in fields(JobOptions) if field.name in arguments}
    runtime = {name: arguments.pop(name) for name in ("model", "provider", "precision") if name in arguments}
    if runtime.get("model") is not None:
        runtime["model"] = os.fspath(runtime["model"])
    return JobOptions(**job), Options(task, row_options(TASKS, task, arguments), RuntimeOptions(**runtime))
