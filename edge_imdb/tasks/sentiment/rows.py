"""SentimentRows: the columns label, score, words and scores of a scored table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, UsageError
from ...options import option
from ..rows import RowOptions
from .options import ReviewOptions

if TYPE_CHECKING:
    from ...data.metrics import Floats
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
    all_scores: bool = option(
        False, "Add the probability of every label: the column scores, or score_LABEL for each label in CSV and TSV."
    )
    temperature: float = option(1.0, "Divide a teacher's logits by this number before the softmax.")

    counted = 0

    def __post_init__(self) -> None:
        if self.explain is not None and self.explain < 1:
            raise UsageError(f"explain is {self.explain}: it must be 1 or more.")
        # Not <, because NaN must be refused too.
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"min_score is {self.min_score}: it must be from 0 to 1.")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}: it must be over 0.")
        if self.all_scores and self.explain is not None:
            raise UsageError("--all-scores and --explain don't go together: leave one of them out.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("label", "score", *(("words",) if self.explain else ()), *(("scores",) if self.all_scores else ()))

    def columns_for(self, labels: Sequence[str], format: str) -> tuple[str, ...]:
        """``columns``; in CSV and TSV, which have no structs, a column for each label instead of ``scores``.

        >>> SentimentRows(all_scores=True).columns_for(["neg", "pos"], "csv")
        ('label', 'score', 'score_neg', 'score_pos')
        """
        if not self.all_scores or format not in ("csv", "tsv"):
            return self.columns
        return (*self.columns[:-1], *(f"score_{label}" for label in labels))

    def arrays(self, values: Sequence[tuple[Any, ...] | None], labels: Sequence[str], format: str) -> list[Any]:
        if not self.all_scores:
            return super().arrays(values, labels, format)
        import pyarrow

        rows = [None if value is None else value[-1] for value in values]
        shares = [
            pyarrow.array([None if row is None else row[at] for row in rows], pyarrow.float64())
            for at in range(len(labels))
        ]
        if format not in ("csv", "tsv"):
            missing = pyarrow.array([row is None for row in rows])
            shares = [pyarrow.StructArray.from_arrays(shares, names=list(labels), mask=missing)]
        return [*super().arrays(values, labels, format), *shares]

    def values(self, probabilities: Floats, labels: Sequence[str]) -> tuple[Any, ...]:
        """Label, score and, with ``all_scores``, the probability of each label. *Shape:* ``(labels,)``.

        Of several labels with the same probability the first is taken, as in ``Sentiment``.

        >>> import numpy as np
        >>> SentimentRows(min_score=0.7).values(np.array([0.4, 0.6]), ["neg", "pos"])
        ('unsure', 0.6)
        """
        from .pipeline import UNSURE

        best = int(probabilities.argmax())
        score = float(probabilities[best])
        label = UNSURE if score < self.min_score else labels[best]
        return (label, score, *([probabilities.tolist()] if self.all_scores else []))

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
        if self.temperature != 1:
            raise UsageError("--temperature is for a teacher, because a bundle is calibrated: leave it out.")
        if self.explain is not None and "explain" not in bundle.graphs:
            raise BundleError(f"The bundle {bundle.path} has no graph that explains a label: export it again, in int8.")

    def row(self, model: Sentiment, text: str) -> tuple[Any, ...]:
        """Label and score; with ``explain``, also that many words, those with the largest weights first.

        With ``all_scores`` the probabilities of all labels come last.
        """
        if self.all_scores:
            return self.values(model.probabilities(text), model.labels)
        if self.explain is None:
            best = model(text)[0]
            return best["label"], best["score"]
        explained = model.explain(text)
        strongest = sorted(explained["words"], key=lambda word: -abs(word["weight"]))[: self.explain]
        words = [{key: word[key] for key in ("word", "weight")} for word in strongest]
        return explained["label"], explained["score"], words
