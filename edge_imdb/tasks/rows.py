"""RowOptions: what a task adds to a row of a scored table, and the options that decide it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UsageError

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from ..runtime.options import RuntimeOptions
    from . import Registry


@dataclass(frozen=True)
class RowOptions(ABC):
    """The options of ``edge-imdb score`` for a task, and the columns that it adds to a row.

    A task derives a dataclass from this one. Its fields become options of the command, and arguments of ``score``.
    """

    # The position of the column whose values the summary counts; None for none.
    counted: ClassVar[int | None] = None

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of the added columns, without a prefix."""

    @abstractmethod
    def kinds(self) -> list[Any]:
        """The Arrow types of the added columns. Needs pyarrow."""

    def columns_for(self, labels: Sequence[str], format: str) -> tuple[str, ...]:
        """``columns`` in a table of ``format`` (parquet, csv, tsv or jsonl), for a model with ``labels``."""
        return self.columns

    def arrays(self, values: Sequence[tuple[Any, ...] | None], labels: Sequence[str], format: str) -> list[Any]:
        """The Arrow arrays of ``columns_for``. ``values`` has the result of ``row`` for each text, or None."""
        import pyarrow

        kinds = self.kinds()
        rows = [value or (None,) * len(kinds) for value in values]
        return [pyarrow.array([row[at] for row in rows], kind) for at, kind in enumerate(kinds)]

    @abstractmethod
    def row(self, model: Any, text: str) -> tuple[Any, ...]:
        """The values of the added columns for ``text``. Raises InputError or BundleError if there are none."""

    @property
    def behaviour(self) -> dict[str, Any]:
        """Arguments for the pipeline's constructor."""
        return {}

    def check(self, runtime: RuntimeOptions) -> None:  # noqa: B027 - optional
        """Raise UsageError if ``runtime`` can't serve these options."""

    def check_bundle(self, bundle: Bundle) -> None:  # noqa: B027 - optional
        """Raise BundleError if the bundle can't serve these options."""


def row_options(tasks: Registry, task: str, given: Mapping[str, Any]) -> RowOptions:
    """The RowOptions of ``task`` from arguments by name.

    An argument that only other tasks have must have its default value. Raises UsageError if it doesn't or if there is
    no such task, TypeError if no task has the argument.
    """
    if task not in tasks:
        raise UsageError(f"There is no task {task!r}: use {' or '.join(tasks)}.")
    own = {field.name for field in fields(tasks[task].rows)}
    for name, value in given.items():
        if name in own:
            continue
        defaults = {other: _default(tasks[other].rows, name) for other in tasks if _has(tasks[other].rows, name)}
        if not defaults:
            raise TypeError(f"score() has no argument {name!r}")
        if value not in defaults.values():
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for {' and '.join(defaults)}, and the task is {task}: leave it out.")
    return tasks[task].rows(**{name: value for name, value in given.items() if name in own})


def _has(kind: type[RowOptions], name: str) -> bool:
    return any(field.name == name for field in fields(kind))


def _default(kind: type[RowOptions], name: str) -> Any:
    return next(field.default for field in fields(kind) if field.name == name)
