"""files_below and partitions: the data files of a folder, and the columns that the names of folders hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePath
from urllib.parse import unquote

from ...errors import InputError

Say = Callable[[str], None]
# What Hive writes in the name of a folder for a null.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def hidden(name: str) -> bool:
    """Whether a file or folder in a folder of data is not data: its name begins with ``.`` or ``_``.

    Examples are .ipynb_checkpoints, _temporary, _delta_log and the ..data of a Kubernetes ConfigMap. Spark has the
    same rule, and the same exception: ``_month=5`` is a partition.

    >>> hidden("_SUCCESS"), hidden(".git"), hidden("_month=5"), hidden("reviews.csv")
    (True, True, False, False)
    """
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def files_below(folder: Path, say: Say | None = None) -> list[Path]:
    """The files below ``folder`` that aren't hidden, in the order of their paths. Links to folders are followed.

    A file or folder that was reached before under another name is left out, and ``say`` is told so; this also ends
    cycles. Raises InputError for a folder that can't be read and for a link that leads nowhere.
    """
    say = say or (lambda line: None)
    found: dict[str, Path] = {}
    visited: dict[str, Path] = {}
    waiting = [folder]
    while waiting:
        place = waiting.pop(0)
        real = os.path.realpath(place)
        if real in visited:
            say(f"{place} is the same folder as {visited[real]}: skipped.")
            continue
        visited[real] = place
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{place} can't be read ({error.strerror}): check its permissions.") from None
        if any(entry.name == "_delta_log" for entry in entries):
            say(f"{place} is a Delta table: files that its log has removed are read too.")
        # Real folders first, so that a link to one of them is what is left out.
        entries.sort(key=lambda entry: entry.is_symlink())
        for entry in entries:
            path = place / entry.name
            if hidden(entry.name):
                continue
            if entry.is_dir():
                waiting.append(path)
            elif not entry.is_file():
                if entry.is_symlink():
                    raise InputError(f"{path} is a link to a file that doesn't exist: remove it, or make the file.")
                say(f"{path} is not a regular file: skipped.")
            elif (target := os.path.realpath(path)) in found:
                say(f"{path} is the same file as {found[target]}: skipped.")
            else:
                found[target] = path
    return sorted(found.values())


def partitions(path: str | PurePath) -> dict[str, str | None]:
    """The columns that folders named ``column=value``, as Hive and Spark write them, add to the rows of a file.

    >>> partitions("reviews/lang=en/city=S%C3%A3o%20Paulo/a.parquet")
    {'lang': 'en', 'city': 'São Paulo'}
    """
    found: dict[str, str | None] = {}
    for part in PurePath(path).parts[:-1]:
        name, sign, value = part.partition("=")
        if sign and name:
            found[unquote(name)] = None if value == _NULL else unquote(value)
    return found
