"""Labeller: what one text gets, whichever task; and the columns that hold it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..errors import BundleError, InputError, UsageError
from ..runtime.bundle import MANIFEST, find_bundle, open_bundle

# Packages whose other version may give other scores, or the same scores in other bytes.
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")
ERROR = "error"
# The label of a row whose score is under the least one that was asked for.


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
    explain: int | None = None
    min_score: float = 0.0

    def __post_init__(self) -> None:
        if self.task not in ("sentiment", "fill-mask"):
            raise UsageError(f"There is no task {self.task!r}: use sentiment or fill-mask.")
        if self.task == "fill-mask" and (self.exact or self.sliding_windows):
            raise UsageError("--exact and --sliding-windows are for sentiment: leave them out.")
        if self.task == "fill-mask" and (self.explain is not None or self.min_score):
            raise UsageError("--explain and --min-score are for sentiment: leave them out.")
        for name in ("top_k", "explain"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name} is {value}: it must be 1 or more.")
        # Not <, because NaN must be refused too.
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"min_score is {self.min_score}: it must be from 0 to 1.")
        if self.explain is not None and self.precision == "fp32":
            raise UsageError("What decided a label is told in int8: leave --precision fp32 out.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are added, before a prefix."""
        if self.task == "fill-mask":
            return ("fills", ERROR)
        return ("label", "score", *(("words",) if self.explain else ()), ERROR)


class Labeller:
    """A loaded model that never raises for a text: what is wrong with one is its outcome. May serve many threads."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._model: Any
        # One thread per text: as many texts at a time as there are cores give the highest throughput, and the same bits
        # everywhere.
        common: dict[str, Any] = {"provider": options.provider, "precision": options.precision, "threads": 1}
        if options.task == "sentiment":
            from ..tasks.sentiment.pipeline import Sentiment

            self._model = Sentiment(
                options.model,
                **common,
                exact=options.exact,
                sliding_windows=options.sliding_windows,
                min_score=options.min_score,
            )
            if options.explain is not None and "explain" not in self._model.bundle.graphs:
                path = self._model.bundle.path
                raise BundleError(f"The bundle {path} has no graph that explains a label: export it again, in int8.")
        else:
            from ..tasks.fill_mask.pipeline import FillMask

            self._model = FillMask(options.model, **common)

    def __call__(self, text: str | None) -> Outcome:
        if text is None:
            return Outcome(None, None)
        try:
            if self.options.task == "sentiment":
                return Outcome(self._sentiment(text), None)
            filled = self._model(text, top_k=self.options.top_k)
        except (InputError, BundleError) as error:
            return Outcome(None, str(error))
        masks = [filled] if isinstance(filled[0], dict) else filled
        return Outcome([[{key: word[key] for key in ("token_str", "score")} for word in mask] for mask in masks], None)

    def _sentiment(self, text: str) -> tuple[Any, ...]:
        """Label and score, and with ``explain`` so many words of those that decided most, the strongest first."""
        options = self.options
        best = self._model(text)[0] if options.explain is None else self._model.explain(text)
        if options.explain is None:
            return best["label"], best["score"]
        strongest = sorted(best["words"], key=lambda word: -abs(word["weight"]))[: options.explain]
        return best["label"], best["score"], [{key: word[key] for key in ("word", "weight")} for word in strongest]

    def identity(self) -> dict[str, Any]:
        """What must be the same wherever parts of one job are made."""
        options = {key: value for key, value in asdict(self.options).items() if value is not None}
        options.pop("model", None)
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
        kinds = [text, number]
        if options.explain is not None:
            kinds.append(pyarrow.list_(pyarrow.struct([("word", text), ("weight", number)])))
        values = [outcome.value or (None,) * len(kinds) for outcome in outcomes]
        added = [pyarrow.array([value[at] for value in values], kind) for at, kind in enumerate(kinds)]
    else:
        kind = pyarrow.list_(pyarrow.list_(pyarrow.struct([("token_str", text), ("score", number)])))
        added = [pyarrow.array([outcome.value for outcome in outcomes], kind)]
    added.append(pyarrow.array([outcome.error for outcome in outcomes], text))
    for name, column in zip(names, added, strict=True):
        table = table.append_column(name, column)
    return table
