"""DataOptions, Evaluation and Progress: what ``edge-imdb evaluate`` gives to a task and gets from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

# Called with a list; its context gives the same items and moves a progress bar.
Progress = Callable[[Sequence[Any]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class DataOptions:
    """Which texts to measure on, and where to write them sorted by their loss."""

    data: str
    split: str
    text_column: str
    label_column: str
    delimiter: str | None
    limit: int | None
    rows: str | None


class Evaluation(NamedTuple):
    """The figures of a bundle as a record for programs, as lines for people, and its rows, sorted by their loss."""

    record: dict[str, Any]
    lines: list[str]
    rows: Mapping[str, Sequence[Any]]
