"""Local: the model on this machine, one text on each core.

Threads and not processes: ONNX Runtime and the tokenizer let go of Python's lock, so both cores are busy
(`benchmarks/score.py rate --processes` compares the two), they hold the model once, and they need no second start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..data.inputs import ordered_map
from .labels import Labeller, Outcome


class Local:
    """``map`` labels texts, ``workers`` at a time, and yields the outcomes in order."""

    def __init__(self, label: Labeller, workers: int) -> None:
        self._label, self._workers = label, workers

    def map(self, texts: Iterable[str | None]) -> Iterator[Outcome]:
        return ordered_map(self._label, texts, self._workers)  # type: ignore[arg-type]

    def close(self) -> None:
        pass
