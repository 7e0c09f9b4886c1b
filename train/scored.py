"""load_scored: texts that models labelled, with the mean of their scores, for a new model to learn from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.datasets import known_as
from ..data.tables import PREFIX, column_of, is_table, iter_rows
from ..data.text import clean, is_blank
from ..errors import DataError, InputError


@dataclass
class Scored:
    """Texts, and the probability of each label. *Shape:* ``(texts,)``, ``(texts, labels)``.

    ``skipped`` counts the rows without a label, as those with an error are; ``withheld`` the texts left out.
    """

    texts: list[str]
    probabilities: NDArray[np.float64]
    skipped: int
    withheld: int

    def take(self, indices: Sequence[int]) -> Scored:
        return Scored([self.texts[i] for i in indices], self.probabilities[indices], self.skipped, self.withheld)


def load_scored(paths: Sequence[str], names: Sequence[str], column: str, withheld: Collection[str]) -> Scored:
    """Read what ``edge-imdb score`` wrote to ``paths``: files, or folders of parts.

    A text that stands there several times, as when several models labelled it, comes once, with the mean of its
    scores. The labels but the one given share the rest of the score evenly. Texts in ``withheld``, which are
    cleaned, are left out. Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", at temperature
    1, because scores are calibrated.

    Raises InputError or DataError.
    """
    texts: dict[str, str] = {}
    found: dict[str, list[NDArray[np.float64]]] = {}
    skipped = 0
    left_out: set[str] = set()
    for place, row in _rows(paths):
        text = column_of(row, column, place)
        before = PREFIX if f"{PREFIX}label" in row else ""
        label, score = (column_of(row, before + name, place) for name in ("label", "score"))
        if not isinstance(text, str) or is_blank(text) or label in (None, "") or score in (None, ""):
            skipped += 1
            continue
        key = clean(text)
        if key in withheld:
            left_out.add(key)
            continue
        texts.setdefault(key, text)
        found.setdefault(key, []).append(_probabilities(label, score, names, place))
    if not texts:
        raise DataError(f"{', '.join(paths)} has no labelled text to train on: give the output of edge-imdb score.")
    means = np.array([np.mean(several, axis=0) for several in found.values()])
    return Scored(list(texts.values()), means, skipped, len(left_out))


def _rows(paths: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in paths:
        path = Path(name)
        files = [path]
        if not path.exists():
            raise InputError(f"There is no file or folder {path}: check the path given with --scored.")
        if path.is_dir():
            # Names that begin with _ are the job's own files.
            files = sorted(file for file in path.iterdir() if is_table(file) and not file.name.startswith(("_", ".")))
        elif not is_table(path):
            raise InputError(f"{path} is not a table: give the output of edge-imdb score with --scored.")
        if not files:
            raise InputError(f"{path} has no scored texts: give the output of edge-imdb score with --scored.")
        for file in files:
            yield from iter_rows(file)


def _probabilities(label: Any, score: Any, names: Sequence[str], place: str) -> NDArray[np.float64]:
    word = known_as(str(label), names)
    if word not in names:
        raise DataError(
            f"{place} has the label {str(label)!r}, but the labels to train are {', '.join(names)}: "
            "score with a model that has the same ones, and without --min-score."
        )
    try:
        share = float(score)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise DataError(f"{place} has the score {score!r}: it must be from 0 to 1.")
    found = np.full(len(names), (1 - share) / (len(names) - 1))
    found[names.index(word)] = share
    return found
