"""Labeller: the values that a model adds to a row, and their columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..errors import BundleError, InputError
from ..runtime.bundle import MANIFEST, find_bundle, open_bundle
from ..runtime.options import RuntimeOptions
from ..tasks import TASKS
from ..tasks.rows import RowOptions

# Another version of these packages may give other scores, or write the same scores as other bytes.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")
ERROR = "error"


class Outcome(NamedTuple):
    """The result for a text: the values of the added columns, or the error; the other is None."""

    value: tuple[Any, ...] | None
    error: str | None


@dataclass(frozen=True)
class Options:
    """Everything that decides the added columns of a row, apart from the bundle's content and the versions.

    Raises UsageError if the options don't fit each other.
    """

    task: str
    rows: RowOptions
    runtime: RuntimeOptions = RuntimeOptions()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        self.rows.check(self.runtime)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the added columns, without a prefix."""
        return (*self.rows.columns, ERROR)

    def columns_for(self, labels: Sequence[str], format: str) -> tuple[str, ...]:
        """``columns`` in a table of ``format``, for a model with ``labels``."""
        return (*self.rows.columns_for(labels, format), ERROR)


class Labeller:
    """An open model that turns a text into an Outcome. It raises no error for a text. Many threads can share it."""

    # Texts are labelled one by one. See TeacherLabeller.
    window: int | None = None

    def __init__(self, options: Options) -> None:
        self.options = options
        # One thread per text: as many texts at a time as there are cores give the highest throughput, and the same bits
        # everywhere.
        runtime = replace(options.runtime, threads=1)
        self._model = TASKS[options.task].open(runtime, **options.rows.behaviour)
        options.rows.check_bundle(self._model.bundle)

    def __call__(self, text: str | None) -> Outcome:
        if text is None:
            return Outcome(None, None)
        try:
            return Outcome(self.options.rows.row(self._model, text), None)
        except (InputError, BundleError) as error:
            return Outcome(None, str(error))

    @property
    def labels(self) -> list[str]:
        """The labels of a classifier; none for another task."""
        return list(getattr(self._model, "labels", ()))

    def label_all(self, texts: Sequence[str | None]) -> list[Outcome]:
        """An outcome for each text."""
        return [self(text) for text in texts]

    def identity(self) -> dict[str, Any]:
        """What must be the same on every machine and in every run that labels parts of a job."""
        rows = {key: value for key, value in vars(self.options.rows).items() if value is not None}
        return {
            "task": self.options.task,
            **rows,
            "provider": self._model.provider,
            "precision": self._model.precision,
            "bundle": bundle_sha256(self._model.bundle.path),
            "versions": {"edge-imdb": __version__, **versions()},
        }


def bundle_sha256(folder: Path) -> str:
    """The sha256 of a bundle's manifest, which identifies the bundle, because it covers the hashes of all files."""
    return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"])


def bundle_files(options: Options) -> dict[str, bytes]:
    """The content of every file of the bundle that ``options`` name, by the file's name. The hashes are checked."""
    bundle = open_bundle(find_bundle(options.task, options.runtime.model)[0], options.task)
    return {name: bundle.file(name).read_bytes() for name in bundle.files} | {
        MANIFEST: (bundle.path / MANIFEST).read_bytes()
    }


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """The installed versions of the packages that decide the bytes of the output."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def with_outcomes(
    table: Any, outcomes: Sequence[Outcome], options: Options, names: Sequence[str], labels: Sequence[str], format: str
) -> Any:
    """``table`` with the columns ``names`` added: ``options.columns_for(labels, format)`` with a prefix."""
    import pyarrow

    added = options.rows.arrays([outcome.value for outcome in outcomes], labels, format)
    added.append(pyarrow.array([outcome.error for outcome in outcomes], pyarrow.string()))
    for name, column in zip(names, added, strict=True):
        table = table.append_column(name, column)
    return table
