"""Local: the model on this machine: a bundle with one text on each core, a teacher with batches.

Threads and not processes: ONNX Runtime and the tokenizer let go of Python's lock, so both cores are busy
(`benchmarks/score.py rate --processes` compares the two), they hold the model once, and they need no second start.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from ..data.inputs import ordered_map
from .labels import Labeller, Outcome
from .teacher import TeacherLabeller


class Local:
    """``map`` labels texts, ``workers`` at a time, and yields the outcomes in order.

    A teacher labels windows of texts instead. ``part_rows`` are the rows of a part.
    """

    def __init__(self, labeller: Labeller | TeacherLabeller, workers: int, part_rows: int) -> None:
        self._labeller, self._workers, self._part_rows = labeller, workers, part_rows

    def map(self, texts: Iterable[str | None]) -> Iterator[Outcome]:
        if isinstance(self._labeller, Labeller):
            return ordered_map(self._labeller, texts, self._workers)  # type: ignore[arg-type]
        some = windows(texts, self._part_rows, self._labeller.window)
        return itertools.chain.from_iterable(map(self._labeller.label_all, some))

    def close(self) -> None:
        pass


def windows(texts: Iterable[str | None], part_rows: int, size: int) -> Iterator[list[str | None]]:
    """``texts``, which are whole parts, in lists of at most ``size``, none of which reaches over the end of a part.

    So the same texts are batched together whichever parts a run begins with. Only the last part may be shorter than
    ``part_rows``.

    >>> list(windows("abcdefg", part_rows=3, size=2))
    [['a', 'b'], ['c'], ['d', 'e'], ['f'], ['g']]
    """
    source = iter(texts)
    while True:
        left = part_rows
        while left:
            some = list(itertools.islice(source, min(size, left)))
            if not some:
                return
            yield some
            left -= len(some)
