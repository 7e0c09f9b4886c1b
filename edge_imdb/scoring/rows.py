"""write_rows: a table of results as one file, CSV, TSV, JSON Lines or Parquet, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.tables import require
from ..errors import OutputError, UsageError
from ..output import whole_file
from . import formats
from .job import find_target


def check_rows(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """Raise UsageError, OutputError or MissingDependencyError if ``write_rows`` can't write ``path``.

    For commands that work for minutes before they write. ``path`` must not be one of ``inputs``.

    >>> check_rows("rows.csv", "reviews.csv")
    """
    require("pyarrow", "pyarrow", "--rows")
    target = Path(path)
    try:
        file = find_target(os.fspath(path)).file
    except UsageError:
        file = None
    if file is None or target.is_dir():
        raise UsageError(f"--rows is {target}: give a file, .parquet, or .csv, .tsv, .jsonl, also with .gz or .zst.")
    if not target.absolute().parent.is_dir():
        raise OutputError(f"There is no folder {target.parent}: make it, or give another file with --rows.")
    for name in inputs:
        if Path(name).exists() and target.exists() and target.samefile(name):
            raise UsageError(f"--rows is {target}, which is also the input: give another file.")


def write_rows(path: str | os.PathLike[str], columns: Mapping[str, Sequence[Any]]) -> None:
    """Write ``columns``, *shape:* ``(rows,)`` each, to ``path``, whose extension gives the format.

    An existing file is replaced. Raises the errors of ``check_rows``, and OutputError if the disk is full.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> write_rows(f"{folder}/rows.csv", {"text": ["Dull.", "Fine."], "loss": [2.5, 0.25]})
    >>> Path(folder, "rows.csv").read_text().splitlines()
    ['text,loss', 'Dull.,2.5', 'Fine.,0.25']
    """
    check_rows(path)
    import pyarrow

    target = find_target(os.fspath(path))
    # Lone surrogates can't be written as UTF-8.
    table = pyarrow.table({name: [_writable(value) for value in values] for name, values in columns.items()})
    data = formats.encode(table, target.format)
    with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
        if target.format == "parquet":
            file.write(data)
        else:
            formats.join([""], lambda _: data, file, target.format, target.compression)


def _writable(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
