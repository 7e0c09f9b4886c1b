"""SentimentRows: the columns label, score and words of a scored table."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, UsageError
from ...options import option
from ..rows import RowOptions
from .options import ReviewOptions

if TYPE_CHECKING:
    from ...runtime.bundle import Bundle
    from ...runtime.options import RuntimeOptions
    from .pipeline import Sentiment


@dataclass(frozen=True)
class SentimentRows(ReviewOptions, RowOptions):
    """The options of ``edge-imdb score --task sentiment``. Raises UsageError if a value is out of range.

    >>> SentimentRows(explain=3).columns
    ('label', 'score', 'words')
    """

    explain: int | None = option(None, "Add the N words that decided most.", least=1, metavar="N")

    counted = 0

    def __post_init__(self) -> None:
        if self.explain is not None and self.explain < 1:
            raise UsageError(f"explain is {self.explain}: it must be 1 or more.")
        # Not <, because NaN must be refused too.
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"min_score is {self.min_score}: it must be from 0 to 1.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("label", "score", *(("words",) if self.explain else ()))

    def kinds(self) -> list[Any]:
        import pyarrow

        text, number = pyarrow.string(), pyarrow.float64()
        words = pyarrow.list_(pyarrow.struct([("word", text), ("weight", number)]))
        return [text, number, *([words] if self.explain else [])]

    @property
    def behaviour(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(ReviewOptions)}

    def check(self, runtime: RuntimeOptions) -> None:
        if self.explain is not None and runtime.precision == "fp32":
            raise UsageError("--explain needs the int8 graph: leave --precision fp32 out.")

    def check_bundle(self, bundle: Bundle) -> None:
        if self.explain is not None and "explain" not in bundle.graphs:
            raise BundleError(f"The bundle {bundle.path} has no graph that explains a label: export it again, in int8.")

    def row(self, model: Sentiment, text: str) -> tuple[Any, ...]:
        """Label and score; with ``explain``, also that many words, those with the largest weights first."""
        if self.explain is None:
            best = model(text)[0]
            return best["label"], best["score"]
        explained = model.explain(text)
        strongest = sorted(explained["words"], key=lambda word: -abs(word["weight"]))[: self.explain]
        words = [{key: word[key] for key in ("word", "weight")} for word in strongest]
        return explained["label"], explained["score"], words
