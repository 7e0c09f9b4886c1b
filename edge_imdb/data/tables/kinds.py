"""The kinds of files that every command reads, by their extensions; and how a missing package is reported."""

from __future__ import annotations

import importlib
from pathlib import Path, PurePath
from typing import Any

from ...errors import InputError, MissingDependencyError

# The format of a file by its extension. A path without an extension is text too: a pipe, /dev/stdin, <(…).
INPUT_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    "": "text",
}
FORMAT_NAMES = {
    "csv": "CSV",
    "tsv": "TSV",
    "json": "JSON",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "text": "text",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
# The extensions of files with columns, and the names of their formats.
TABLES = {suffix: FORMAT_NAMES[kind] for suffix, kind in INPUT_FORMATS.items() if kind != "text"}
KINDS = f"{', '.join(filter(None, INPUT_FORMATS))}, each also with {' or '.join(COMPRESSIONS)} behind it"
# edge-imdb score puts this prefix before the names of its columns if the input already has one of them.
PREFIX = "predicted_"


def require(module: str, package: str, purpose: str) -> Any:
    """Import ``module``. Raises MissingDependencyError, which says which package to install.

    >>> require("json", "json", "Reading JSON").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install {package}"
        ) from error


def extensions(path: str | PurePath) -> tuple[str, str]:
    """The extension that names the format of a file and the extension of its compression, in lower case.

    >>> extensions("reviews.CSV.gz"), extensions("reviews.csv"), extensions("reviews")
    (('.csv', '.gz'), ('.csv', ''), ('', ''))
    """
    path = PurePath(path)
    last = path.suffix.lower()
    return (PurePath(path.stem).suffix.lower(), last) if last in COMPRESSIONS else (last, "")


def format_of(path: str | PurePath) -> str:
    """The format of a file by its name, a value of ``INPUT_FORMATS``. Raises InputError for an unknown extension.

    >>> format_of("reviews.ndjson.zst"), format_of("/dev/stdin")
    ('jsonl', 'text')
    """
    suffix = extensions(path)[0]
    if suffix not in INPUT_FORMATS:
        raise InputError(
            f"{path} is of a kind that edge-imdb can't read ({suffix}): use {KINDS}; rename a text file, or pipe it in."
        )
    return INPUT_FORMATS[suffix]


def is_table(path: str | PurePath) -> bool:
    """Whether a file has columns, by its name.

    >>> is_table("reviews.parquet"), is_table("reviews.txt")
    (True, False)
    """
    return extensions(path)[0] in TABLES


def check_kind(path: Path) -> None:
    """Raise InputError if there is no such file, if it is a folder, or if its extension is unknown."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a file of texts.")
    if not path.exists():
        raise InputError(f"There is no file {path}: check the path.")
    format_of(path)
