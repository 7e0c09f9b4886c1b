"""hold_out and sample: choose reviews by a hash of text and seed, so that neither order nor machine matters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import DataError
from .text import clean


def _rank(text: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{clean(text)}".encode("utf-8", "replace")).digest()


def sample(texts: Sequence[str], count: int, seed: int) -> list[int]:
    """Indices of ``count`` texts drawn with ``seed``, in their original order; all of them if there are fewer.

    >>> sample(["fine", "dull", "great"], 3, seed=0)
    [0, 1, 2]
    """
    order = sorted(range(len(texts)), key=lambda i: (_rank(texts[i], seed), i))
    return sorted(order[:count])


def hold_out(texts: Sequence[str], labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the train part and of the held-out part, ``fraction`` of each label's reviews and at least one.

    Copies of one text (after cleaning) are all on one side, whatever their labels. Raises DataError if a side would be
    empty.

    >>> train, held = hold_out(["fine", "dull", "good", "bad"], [1, 0, 1, 0], 0.5, seed=0)
    >>> sorted(train + held), len(held)
    ([0, 1, 2, 3], 2)
    """
    ranks = [_rank(text, seed) for text in texts]
    group_label: dict[bytes, int] = {}
    sizes: dict[bytes, int] = {}
    for rank, label in zip(ranks, labels, strict=True):
        group_label.setdefault(rank, label)
        sizes[rank] = sizes.get(rank, 0) + 1
    chosen: set[bytes] = set()
    for label in sorted(set(labels)):
        groups = sorted(rank for rank, first in group_label.items() if first == label)
        wanted = max(1, round(fraction * sum(sizes[rank] for rank in groups)))
        taken = 0
        for rank in groups[: len(groups) - 1]:
            if taken >= wanted:
                break
            chosen.add(rank)
            taken += sizes[rank]
    train = [i for i, rank in enumerate(ranks) if rank not in chosen]
    held = [i for i, rank in enumerate(ranks) if rank in chosen]
    if not held or not train:
        raise DataError(
            f"{len(texts)} reviews are too few to hold some out for validation: "
            "give at least two different texts for each label."
        )
    return train, held


def fingerprint(texts: Sequence[str]) -> str:
    """A hash of texts in any order, which identifies a split without storing its texts.

    >>> fingerprint(["fine", "dull"]) == fingerprint(["dull", "fine"])
    True
    """
    return hashlib.sha256(b"".join(sorted(_rank(text, 0) for text in texts))).hexdigest()
