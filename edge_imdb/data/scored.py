"""Texts that a model labelled: load_scored reads them, scored_corpus splits them for a run without labels."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, InputError, UsageError
from .corpus import Corpus, held_share, left_out_texts, load_corpus
from .datasets import Reviews, read_reviews, sources_of
from .labels import known_as
from .splits import hold_out, sample
from .tables import PREFIX, column_of, files_below, is_table, iter_rows
from .text import clean, is_blank

Floats = NDArray[np.float64]
# The column with the whole distribution in Parquet and JSON Lines, and how the columns of each label begin in CSV.
SCORES, SCORE_OF = "scores", "score_"
# Rounding errors of a distribution that was written with few digits.
SLACK = 0.01
# The label of a row whose best score was under --min-score.
UNSURE = "unsure"


@dataclass
class Scored:
    """Texts, and the probability of each label. *Shape:* ``(texts,)``, ``(texts, labels)``.

    ``names`` are the labels. ``skipped`` counts the rows without a label, such as those with an error; ``withheld``
    counts the texts left out because they are in validation, in test or in ``--leave-out``.
    """

    texts: list[str]
    probabilities: Floats
    names: list[str]
    skipped: int
    withheld: int

    def take(self, indices: Sequence[int]) -> Scored:
        """The texts at ``indices``."""
        texts = [self.texts[i] for i in indices]
        return Scored(texts, self.probabilities[indices], self.names, self.skipped, self.withheld)


@dataclass(kw_only=True)
class ScoredCorpus(Corpus):
    """A corpus whose labels are a teacher's: the label of a text is the one with the highest probability.

    ``train_shares`` and ``validation_shares`` are the teacher's probabilities. *Shape:* ``(texts, labels)``.
    ``skipped`` is as in Scored.
    """

    train_shares: Floats
    validation_shares: Floats
    skipped: int


def read_corpus(options: Mapping[str, Any]) -> Corpus:
    """The texts of a run, whose options are named as in SentimentOptions: labelled ones, or only scored ones.

    Raises InputError, DataError, HubError or UsageError.
    """
    return load_corpus(options) if options["data"] is not None else scored_corpus(options)


def scored_corpus(options: Mapping[str, Any]) -> ScoredCorpus:
    """Split the texts of ``options["scored"]``, for a run without labelled data.

    Validation is held out by text and seed, as ``load_corpus`` does it. Test is ``options["test_data"]``, whose labels
    must be those of the teacher. Raises InputError, DataError, HubError or UsageError.
    """
    if options.get("weights") is not None:
        raise UsageError("--weights is for several --data, and there is none: leave it out.")
    column, seed, limit = sources_of(options["text_column"])[0], options["seed"], options["limit"]
    paths = sources_of(options["scored"])
    scored = load_scored(paths, None, column, set())
    names = scored.names
    test: Reviews | None = None
    if options["test_data"]:
        where = (sources_of(options["text_column"])[-1], options["label_column"])
        test = read_reviews(options["test_data"], "test", *where, names=names, delimiter=options.get("delimiter"))
    seen = {clean(text) for text in test.texts} if test else set()
    kept = [i for i, text in enumerate(scored.texts) if clean(text) not in seen]
    dropped = len(scored.texts) - len(kept)
    if not kept:
        raise DataError(f"Every text of {', '.join(paths)} is also in the test reviews: give other texts.")
    scored = scored.take(kept)
    if limit is not None:
        scored = scored.take(sample(scored.texts, limit, seed))
        test = test and test.take(sample(test.texts, limit, seed))
    labels = scored.probabilities.argmax(axis=1).tolist()
    train, held = hold_out(scored.texts, labels, held_share(len(scored.texts), options["validation"]), seed)
    unwanted = left_out_texts(options.get("leave_out"), column)
    mine = [i for i in train if clean(scored.texts[i]) not in unwanted]
    if not mine:
        raise DataError("Every text to train on is in --leave-out: give other texts.")
    reviews = Reviews(scored.texts, labels, names)
    withheld = seen | {clean(scored.texts[i]) for i in held} | unwanted
    return ScoredCorpus(
        train=reviews.take(mine),
        validation=reviews.take(held),
        test=test,
        dropped=dropped,
        left_out=len(train) - len(mine),
        sources=[", ".join(paths)],
        train_rows=[len(mine)],
        origins=[0] * len(held),
        withheld=withheld,
        train_shares=scored.probabilities[mine],
        validation_shares=scored.probabilities[held],
        skipped=scored.skipped,
    )


def load_scored(paths: Sequence[str], names: Sequence[str] | None, column: str, withheld: Collection[str]) -> Scored:
    """Read the output of ``edge-imdb score`` in ``paths``: files, or folders of parts.

    A row has the whole distribution, as ``--all-scores`` writes it (a column ``scores`` that maps each label to its
    probability, or a column ``score_LABEL`` for each label), or else ``label`` and ``score``; the other labels then
    share the rest evenly. A text that occurs several times, for example because several models labelled it, comes
    once, with the mean of its distributions. Texts in ``withheld``, which are cleaned, are left out. Without ``names``
    the labels are those of the distributions, in their order, or the sorted ones of the column ``label``.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network". Raises InputError or DataError.
    """
    rows: list[tuple[str, str, str, Any]] = []
    skipped = 0
    left_out: set[str] = set()
    for where, row in _rows(paths):
        text = column_of(row, column, where)
        answer = _answer(row, names, where)
        if not isinstance(text, str) or is_blank(text) or answer is None:
            skipped += 1
            continue
        key = clean(text)
        if key in withheld:
            left_out.add(key)
            continue
        rows.append((where, key, text, answer))
    if not rows:
        raise DataError(f"{', '.join(paths)} has no labelled text to train on: give the output of edge-imdb score.")
    labels = list(names) if names is not None else _names(answer for _, _, _, answer in rows)
    if len(labels) < 2:
        raise DataError(
            f"Every text of {', '.join(paths)} has the label {labels[0]!r}: give texts with two or more labels, or "
            "score them with --all-scores."
        )
    texts: dict[str, str] = {}
    found: dict[str, list[Floats]] = {}
    for where, key, text, answer in rows:
        texts.setdefault(key, text)
        found.setdefault(key, []).append(_probabilities(answer, labels, where))
    means = np.array([np.mean(several, axis=0) for several in found.values()])
    return Scored(list(texts.values()), means, labels, skipped, len(left_out))


def _rows(paths: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in paths:
        path = Path(name)
        files = [path]
        if not path.exists():
            raise InputError(f"There is no file or folder {path}: check the path given with --scored.")
        if path.is_dir():
            # The job's own files, such as _manifest.json, are hidden.
            files = [file for file in files_below(path) if is_table(file)]
        elif not is_table(path):
            raise InputError(f"{path} is not a table: give the output of edge-imdb score with --scored.")
        if not files:
            raise InputError(f"{path} has no scored texts: give the output of edge-imdb score with --scored.")
        for file in files:
            yield from iter_rows(file)


def _answer(row: dict[str, Any], names: Sequence[str] | None, where: str) -> tuple[Any, Any] | dict[str, Any] | None:
    """The distribution of a row by label, or its (label, score); None if it has no label."""
    prefix = PREFIX if f"{PREFIX}label" in row else ""
    if prefix + SCORES in row:
        whole = row[prefix + SCORES]
        return None if whole in (None, "") else _distribution(whole, where)
    label = column_of(row, prefix + "label", where)
    begin = prefix + SCORE_OF
    columns = {name.removeprefix(begin): row[name] for name in row if name.startswith(begin)}
    # The texts may have had a column of their own whose name begins like these.
    if names is None:
        whole_given = str(label) in columns or (len(columns) > 1 and label in (None, "", UNSURE))
    else:
        columns = {name: value for name, value in columns.items() if known_as(name, names) in names}
        whole_given = len(columns) == len(names)
    if whole_given:
        return None if all(value in (None, "") for value in columns.values()) else columns
    score = column_of(row, prefix + "score", where)
    return None if label in (None, "") or score in (None, "") else (label, score)


def _distribution(whole: Any, where: str) -> dict[str, Any] | None:
    """A distribution by label, from a struct, a map, a list of ``{"label", "score"}``, or JSON text of these."""
    if isinstance(whole, str):
        try:
            whole = json.loads(whole)
        except ValueError:
            whole = None
    if isinstance(whole, list):
        pairs = [(part.get("label"), part.get("score")) if isinstance(part, dict) else part for part in whole]
        fits = all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs)
        whole = {str(label): share for label, share in pairs} if fits else None
    if not isinstance(whole, dict):
        raise DataError(f"{where} has a column {SCORES!r} that doesn't map labels to probabilities: score it again.")
    shares = {str(label): share for label, share in whole.items() if share is not None}
    return shares or None


def _names(answers: Iterator[Any]) -> list[str]:
    """The labels of all answers: those of the distributions in their order, or else the sorted ones."""
    ordered: dict[str, None] = {}
    single: set[str] = set()
    for answer in answers:
        if isinstance(answer, dict):
            ordered.update(dict.fromkeys(answer))
        else:
            single.add(str(answer[0]))
    return [*ordered, *sorted(single - set(ordered))]


def _probabilities(answer: Any, names: Sequence[str], where: str) -> Floats:
    answer = answer if isinstance(answer, dict) else dict([answer])
    shares = np.full(len(names), np.nan)
    for label, score in answer.items():
        if score not in (None, ""):
            shares[_index(label, names, where)] = _share(score, where)
    known = float(np.nansum(shares))
    missing = np.isnan(shares)
    if known > 1 + SLACK or (not missing.any() and known < 1 - SLACK):
        raise DataError(f"{where} has scores that add up to {known:.4g}: they must add up to 1.")
    if missing.any():
        shares[missing] = max(0.0, 1 - known) / missing.sum()
        return shares
    return shares / known


def _index(label: Any, names: Sequence[str], where: str) -> int:
    word = known_as(str(label), names)
    if word not in names:
        raise DataError(
            f"{where} has the label {str(label)!r}, but the labels to train are {', '.join(names)}: "
            "score with a model that has the same ones, and without --min-score."
        )
    return list(names).index(word)


def _share(score: Any, where: str) -> float:
    try:
        share = float(score)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise DataError(f"{where} has the score {score!r}: it must be from 0 to 1.")
    return share
