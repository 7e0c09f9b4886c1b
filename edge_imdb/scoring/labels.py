"""Labeller: what one text gets, whichever task; and the columns that hold it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..bundle import MANIFEST, find_bundle, open_bundle
from ..errors import BundleError, InputError, UsageError

# Packages whose other version may give other scores, or the same scores in other bytes.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")
ERROR = "error"


class Outcome(NamedTuple):
    """What the model says about one text: either ``value`` or ``error``; the other is None."""

    value: Any
    error: str | None


@dataclass(frozen=True)
class Options:
    """Everything that decides what a text gets, apart from the bundle's content and the versions."""

    task: str = "sentiment"
    model: str | None = None
    provider: str = "auto"
    precision: str = "auto"
    exact: bool = False
    sliding_windows: bool = False
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.task not in ("sentiment", "fill-mask"):
            raise UsageError(f"There is no task {self.task!r}: use sentiment or fill-mask.")
        if self.task == "fill-mask" and (self.exact or self.sliding_windows):
            raise UsageError("--exact and --sliding-windows are for sentiment: leave them out.")
        if self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}: it must be 1 or more.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are added, before a prefix."""
        return ("label", "score", ERROR) if self.task == "sentiment" else ("fills", ERROR)


class Labeller:
    """A loaded model that never raises for a text: what is wrong with one is its outcome. May serve many threads."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._model: Any
        # One thread per text: as many texts at a time as there are cores give the highest throughput, and the same bits
        # everywhere.
        common: dict[str, Any] = {"provider": options.provider, "precision": options.precision, "threads": 1}
        if options.task == "sentiment":
            from ..sentiment import Sentiment

            self._model = Sentiment(
                options.model, **common, exact=options.exact, sliding_windows=options.sliding_windows
            )
        else:
            from ..fill_mask import FillMask

            self._model = FillMask(options.model, **common)

    def __call__(self, text: str | None) -> Outcome:
        if text is None:
            return Outcome(None, None)
        try:
            if self.options.task == "sentiment":
                best = self._model(text)[0]
                return Outcome((best["label"], best["score"]), None)
            filled = self._model(text, top_k=self.options.top_k)
        except (InputError, BundleError) as error:
            return Outcome(None, str(error))
        masks = [filled] if isinstance(filled[0], dict) else filled
        return Outcome([[{key: word[key] for key in ("token_str", "score")} for word in mask] for mask in masks], None)

    def identity(self) -> dict[str, Any]:
        """What must be the same wherever parts of one job are made."""
        options = asdict(self.options)
        del options["model"]
        if self.options.task == "sentiment":
            del options["top_k"]
        else:
            del options["exact"], options["sliding_windows"]
        return {
            **options,
            "provider": self._model.provider,
            "precision": self._model.precision,
            "bundle": bundle_sha256(self._model.bundle.path),
            "versions": {"edge-imdb": __version__, **versions()},
        }


def bundle_sha256(folder: Path) -> str:
    """The seal of a bundle's manifest, which holds the hashes of all its files."""
    return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"])


def bundle_files(options: Options) -> dict[str, bytes]:
    """Every file of the bundle that ``options`` leads to, checked, by its name."""
    bundle = open_bundle(find_bundle(options.task, options.model)[0], options.task)
    return {name: bundle.file(name).read_bytes() for name in bundle.files} | {
        MANIFEST: (bundle.path / MANIFEST).read_bytes()
    }


def versions() -> dict[str, str]:
    """The installed versions of what decides the output's bytes."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def with_outcomes(table: Any, outcomes: Sequence[Outcome], options: Options, names: Sequence[str]) -> Any:
    """``table`` with the columns ``names`` added, which are ``options.columns`` with a prefix."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    if options.task == "sentiment":
        pairs = [outcome.value or (None, None) for outcome in outcomes]
        added = [pyarrow.array([label for label, _ in pairs], text), pyarrow.array([s for _, s in pairs], number)]
    else:
        kind = pyarrow.list_(pyarrow.list_(pyarrow.struct([("token_str", text), ("score", number)])))
        added = [pyarrow.array([outcome.value for outcome in outcomes], kind)]
    added.append(pyarrow.array([outcome.error for outcome in outcomes], text))
    for name, column in zip(names, added, strict=True):
        table = table.append_column(name, column)
    return table
