"""ReviewOptions: the arguments of Sentiment that RuntimeOptions doesn't have."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import option


@dataclass(frozen=True)
class ReviewOptions:
    """How reviews are read, and when a label is given. See ``Sentiment``.

    >>> ReviewOptions(exact=True).min_score
    0.0
    """

    min_score: float = option(0.0, 'Give the label "unsure" instead of a label with a lower score.', least=0, most=1)
    exact: bool = option(False, "Do all the work: read the whole review, never stop early, drop no tokens.")
    sliding_windows: bool = option(
        False, "Read a long review to its end, one window after another, and average the logits."
    )
