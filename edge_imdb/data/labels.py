"""label_indices and known_as: labels as words, numbers or booleans, whichever kind of file they are from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import DataError, SplitError

# 007 and -0 are words. Programs that know no missing whole number write 1 as 1.0.
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0+)?")
_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.[0-9]+)?|-0\.[0-9]*[1-9][0-9]*")


def known_as(word: str, names: Sequence[str] | None) -> str:
    """The label among ``names`` that a data set calls ``word``; ``word`` itself if there is none, or more than one.

    >>> known_as("Negative", ["neg", "pos"]), known_as("neutral", ["neg", "pos"])
    ('neg', 'neutral')
    """
    if names is None or word in names:
        return word
    small = word.casefold()
    for found in (
        [name for name in names if name.casefold() == small],
        [name for name in names if _begins(name.casefold(), small) or _begins(small, name.casefold())],
    ):
        if len(found) == 1:
            return found[0]
    return word


def _begins(short: str, long: str) -> bool:
    # A number that begins another one is another label.
    return len(short) > 1 and short.isalpha() and long.startswith(short)


def _labels(raw: Sequence[Any], places: Sequence[str]) -> tuple[list[str] | list[int], bool]:
    """Labels as words or as whole numbers, whichever kind of file they are from; and whether they are booleans.

    Raises DataError for anything else.
    """
    for label, place in zip(raw, places, strict=True):
        missing = label is None or (isinstance(label, str) and not label.strip()) or label != label
        if missing or not isinstance(label, (str, int, float)):
            raise DataError(
                f"{place} has {'no label' if missing else f'the label {label!r:.80}'}: use a word or a whole number."
            )
    words = [str(label).strip() for label in raw]
    if all(word.casefold() in ("true", "false") for word in words):
        return [word.capitalize() for word in words], True
    if all(_NUMBER.fullmatch(word) for word in words):
        for word, place in zip(words, places, strict=True):
            if not _WHOLE.fullmatch(word):
                raise DataError(f"{place} has the label {word}: use a word or a whole number.")
        return [int(word.split(".")[0]) for word in words], False
    return words, False


def label_indices(
    source: str,
    raw: Sequence[Any],
    places: Sequence[str],
    own: list[str] | None,
    names: Sequence[str] | None,
) -> tuple[list[int], list[str]]:
    """The indices of the labels ``raw``, and the names that they are indices into.

    ``places`` are the positions of the rows, ``own`` the names that the data declares, ``names`` those of the caller;
    see ``datasets.read_reviews``. *Shape:* ``(rows,)`` and ``(classes,)``. Raises DataError.

    >>> label_indices("reviews.csv", ["1.0", "0.0"], ["line 2", "line 3"], None, ["neg", "pos"])
    ([1, 0], ['neg', 'pos'])
    """
    if not raw:
        raise DataError(f"{source} is empty: give at least one labelled review.")
    labels, boolean = _labels(raw, places)
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and min(numbers) < 0 and own is not None:
        raise SplitError(f"{source} has no labels (label {min(numbers)}): use a labelled split, such as train or test.")
    words = [str(label) for label in labels]
    if numbers and own is not None:
        words = _at(numbers, own, f"{source} declares")
    elif numbers and names is not None and not set(words) <= set(names):
        # The data has numbers and the model has named labels, so the numbers are indices.
        words = _at(numbers, names, "the model knows", source)
    elif boolean and names is not None and len(names) == 2 and not set(words) <= set(names):
        words = [names[word == "True"] for word in words]
    words = [known_as(word, names) for word in words]
    if names is None:
        if own is not None and set(words) <= set(own):
            names = own
        else:
            names = [str(number) for number in sorted(set(numbers))] if numbers else sorted(set(words))
    index = {name: i for i, name in enumerate(names)}
    unknown_words = sorted(set(words) - set(index))
    if unknown_words:
        known = ", ".join(repr(name) for name in names)
        raise DataError(f"{source} has the unknown label {unknown_words[0]!r}: use {known}.")
    return [index[word] for word in words], list(names)


def _at(numbers: Sequence[int], names: Sequence[str], who: str, source: str | None = None) -> list[str]:
    unknown = sorted({number for number in numbers if not 0 <= number < len(names)})
    if unknown:
        begin = f"{source} has the label {unknown[0]}" if source else f"A row has the label {unknown[0]}"
        raise DataError(f"{begin}: {who} 0 to {len(names) - 1}.")
    return [names[number] for number in numbers]
