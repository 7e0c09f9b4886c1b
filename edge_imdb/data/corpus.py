"""load_corpus and load_texts: the reviews of a run by split. Equal options give equal splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, SplitError, UsageError
from .datasets import Reviews, is_single_file, read_reviews, read_texts, sources_of
from .splits import hold_out, sample
from .tables import TABLES, is_table, iter_texts
from .text import clean

# Below this number, validation figures are too uncertain: an accuracy of 90 % on 100 reviews means 82 to 95 %.
ENOUGH = 100


@dataclass
class Corpus:
    """The reviews of a run. ``dropped`` counts the train reviews left out because they are also in the test split.

    ``sources`` are its data sets, ``train_rows`` how many rows of train each gives, and ``origins`` which of them each
    validation review is from, by its number. *Shape:* ``(sources,)`` twice, ``(validation,)``. ``withheld`` are the
    texts that must not be trained on, cleaned: those of validation, of test, and those to leave out.
    """

    train: Reviews
    validation: Reviews
    test: Reviews | None
    dropped: int
    left_out: int
    sources: list[str]
    train_rows: list[int]
    origins: list[int]
    withheld: set[str]


def load_corpus(options: Mapping[str, Any]) -> Corpus:
    """Read and split the reviews as ``options``, named as in SentimentOptions, say.

    The labels are those of the first data set. Validation is each data set's own split of that name or, where it has
    none, held out of its train by text and seed. The test split is what ``test_data`` or the first data set has. No
    text of validation or test is trained on, whichever data set it is in.

    Raises InputError, DataError, HubError or UsageError.
    """
    sources = sources_of(options["data"])
    weights = _weights(options.get("weights"), sources)
    columns = _columns(options["text_column"], sources)
    limit, seed = options["limit"], options["seed"]
    unwanted = left_out_texts(options.get("leave_out"), columns[0])
    names: list[str] | None = None
    test: Reviews | None = None
    parts: list[tuple[Reviews, Reviews]] = []
    dropped, seen = 0, set[str]()
    for number, (data, column) in enumerate(zip(sources, columns, strict=True)):
        where = (column, options["label_column"])
        reviews = read_reviews(data, "train", *where, names=names, delimiter=options.get("delimiter"))
        names = reviews.names
        if len(set(reviews.labels)) < 2:
            only = names[reviews.labels[0]]
            raise DataError(f"Every review of {data} has the label {only!r}: give reviews with two or more labels.")
        if number == 0:
            test = _test_split(options, data, where, names)
            seen = {clean(text) for text in test.texts} if test else set()
        everything = len(reviews.texts)
        reviews = reviews.take([i for i, text in enumerate(reviews.texts) if clean(text) not in seen])
        dropped += everything - len(reviews.texts)
        if not reviews.texts:
            raise DataError(f"Every review of {data} is also in the test reviews: give other reviews to train on.")
        if limit is not None:
            reviews = reviews.take(sample(reviews.texts, limit, seed))
        held = _optional_split(data, "validation", where, names)
        if held is None:
            share = held_share(len(reviews.texts), options["validation"])
            kept, out = hold_out(reviews.texts, reviews.labels, share, seed)
            parts.append((reviews.take(kept), reviews.take(out)))
        else:
            held = held.take([i for i, text in enumerate(held.texts) if clean(text) not in seen])
            parts.append((reviews, held.take(sample(held.texts, limit, seed)) if limit is not None else held))
    if test is not None and limit is not None:
        test = test.take(sample(test.texts, limit, seed))
    assert names is not None
    withheld = {clean(text) for _, held in parts for text in held.texts}
    left_out = 0
    train, validation, origins, rows = Reviews([], [], names), Reviews([], [], names), [], []
    for number, ((reviews, held), weight) in enumerate(zip(parts, weights, strict=True)):
        cleaned = [clean(text) for text in reviews.texts]
        left_out += sum(text in unwanted for text in cleaned)
        reviews = reviews.take([i for i, text in enumerate(cleaned) if text not in unwanted and text not in withheld])
        once = len(reviews.texts)
        times = [*range(once)] * int(weight) + sample(reviews.texts, round(weight % 1 * once), seed)
        train = _joined(train, reviews.take(times))
        validation = _joined(validation, held)
        origins += [number] * len(held.texts)
        rows.append(len(times))
    if len(set(train.labels)) < 2:
        raise DataError("Only one label is left to train on: give more reviews, or a higher --limit.")
    return Corpus(train, validation, test, dropped, left_out, sources, rows, origins, seen | withheld | unwanted)


def _joined(first: Reviews, second: Reviews) -> Reviews:
    return Reviews(first.texts + second.texts, first.labels + second.labels, second.names)


def _test_split(options: Mapping[str, Any], data: str, where: tuple[str, str], names: list[str]) -> Reviews | None:
    given = options["test_data"]
    if given:
        return read_reviews(given, "test", *where, names=names, delimiter=options.get("delimiter"))
    return _optional_split(data, "test", where, names)


def _optional_split(data: str, split: str, where: tuple[str, str], names: list[str]) -> Reviews | None:
    """A labelled split; None if the data set has no such split. A single file has none."""
    if is_single_file(data):
        return None
    try:
        return read_reviews(data, split, *where, names=names)
    except SplitError:
        return None


def _weights(given: str | None, sources: list[str]) -> list[float]:
    """How many times an epoch reads each of ``sources``. Raises UsageError."""
    if given is None:
        return [1.0] * len(sources)
    try:
        weights = [float(part) for part in given.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(sources) or not all(0 < weight < 1000 for weight in weights):
        raise UsageError(
            f"--weights is {given!r}: give a number over 0 for each --data, here {len(sources)}, such as "
            f"{','.join(['1'] * len(sources))}."
        )
    return weights


def _columns(given: str | Sequence[str], sources: list[str]) -> list[str]:
    """The text column of each of ``sources``. Raises UsageError."""
    columns = sources_of(given)
    if len(columns) == 1:
        columns *= len(sources)
    if len(columns) != len(sources):
        raise UsageError(
            f"--text-column is given {len(columns)} times, and --data {len(sources)} times: give it once, or once for "
            "each --data, in their order."
        )
    return columns


@dataclass
class Texts:
    """The texts of a run without labels. ``dropped`` counts those left out because they are also in the test split."""

    train: list[str]
    validation: list[str]
    test: list[str] | None
    dropped: int
    left_out: int


def load_texts(options: Mapping[str, Any]) -> Texts:
    """Read and split the texts as ``options``, named as in FillMaskOptions, say.

    Validation is held out of the split train of the first data set, by text and seed. Its ``unsupervised`` texts and
    the other data sets are only trained on, without what is also in test or validation. Raises InputError, DataError,
    HubError or UsageError.
    """
    test_data, limit, seed = (options[name] for name in ("test_data", "limit", "seed"))
    sources = sources_of(options["data"])
    columns = _columns(options["text_column"], sources)
    data, column = sources[0], columns[0]
    single = is_single_file(data)
    delimiter = options.get("delimiter")
    texts = read_texts(data, "train", column, delimiter)
    weights = _weights(options.get("weights"), sources)
    if weights[0] != 1:
        raise UsageError("--weights must begin with 1: validation is held out of the first --data.")
    more: list[str] = []
    for other, where, weight in zip(sources[1:], columns[1:], weights[1:], strict=True):
        found = read_texts(other, "train", where, delimiter)
        more += found * int(weight) + [found[i] for i in sample(found, round(weight % 1 * len(found)), seed)]
    if options["unsupervised"] and single:
        raise UsageError(f"--unsupervised needs a data set with a split of that name, and {data} is a single file.")
    unsupervised = more + (read_texts(data, "unsupervised", column) if options["unsupervised"] else [])
    test = None
    if test_data:
        test = read_texts(test_data, "test", column, delimiter)
    elif not single:
        try:
            test = read_texts(data, "test", column)
        except SplitError:
            test = None
    everything = len(texts) + len(unsupervised)
    seen = {clean(text) for text in test or []}
    texts = [text for text in texts if clean(text) not in seen]
    unsupervised = [text for text in unsupervised if clean(text) not in seen]
    dropped = everything - len(texts) - len(unsupervised)
    if not texts:
        raise DataError(f"Every review of {data} is also in the test reviews: give other reviews to train on.")
    if limit is not None:
        texts = [texts[i] for i in sample(texts, limit, seed)]
        unsupervised = [unsupervised[i] for i in sample(unsupervised, limit, seed)]
        test = test and [test[i] for i in sample(test, limit, seed)]
    train, held = hold_out(texts, [0] * len(texts), held_share(len(texts), options["validation"]), seed)
    validation = [texts[i] for i in held]
    # These texts are left out of training only, so that the validation split doesn't change.
    unwanted = left_out_texts(options.get("leave_out"), column)
    mine = [text for text in (texts[i] for i in train) if clean(text) not in unwanted]
    extra = [text for text in unsupervised if clean(text) not in unwanted]
    left_out = len(train) - len(mine) + len(unsupervised) - len(extra)
    kept = {clean(text) for text in validation}
    extra = [text for text in extra if clean(text) not in kept]
    if not mine and not extra:
        raise DataError("Every review to train on is named by --leave-out: give other reviews to train on.")
    return Texts(mine + extra, validation, test, dropped, left_out)


def about_splits(train: int, validation: int, test: int | None, dropped: int, left_out: int) -> list[str]:
    """Lines about the sizes of the splits, with a warning if validation is too small.

    >>> about_splits(1000, 200, None, 0, 0)
    ['reviews: 1000 train, 200 validation, no test']
    """
    lines = []
    if test is not None:
        lines.append(f"dropped {dropped} train reviews that are also in the test split")
    if left_out:
        lines.append(f"left out {left_out} train reviews, as --leave-out says")
    lines.append(f"reviews: {train} train, {validation} validation, {'no' if test is None else test} test")
    if validation < ENOUGH:
        lines.append(
            f"WARNING: only {validation} reviews are held out for validation. Its figures, the choice of a checkpoint "
            f"and the confidence of the scores mean little below {ENOUGH}: give more reviews, or treat this run as a "
            "trial."
        )
    return lines


def held_share(rows: int, share: float) -> float:
    """The share of ``rows`` to hold out: ``share``, but at least ENOUGH reviews, or a fifth of a small data set."""
    return max(share, min(0.2, ENOUGH / rows))


def left_out_texts(path: str | None, column: str) -> set[str]:
    """The cleaned texts of the file ``path``, which training must leave out; empty if ``path`` is None."""
    if path is None:
        return set()
    if not is_table(Path(path)):
        raise UsageError(f"--leave-out is {path}: give a file of texts ({', '.join(TABLES)}).")
    return {clean(text) for _, text in iter_texts(Path(path), column)}
