"""evaluate: the figures that ``edge-imdb evaluate fill-mask`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...data.datasets import read_texts
from ...data.splits import sample
from ...errors import UsageError
from ..evaluation import DataOptions, Evaluation, Progress
from .figures import evaluate_fill_mask
from .pipeline import FillMask


def evaluate(fill_mask: FillMask, chosen: DataOptions, workers: int, progress: Progress) -> Evaluation:
    """Perplexity and accuracy on masked words. Raises UsageError with several workers."""
    if workers != 1:
        raise UsageError("--workers is for sentiment: leave it out.")
    texts = read_texts(chosen.data, chosen.split, chosen.text_column, chosen.delimiter)
    if chosen.limit is not None:
        texts = [texts[i] for i in sample(texts, chosen.limit, seed=0)]

    def walk(rows: Iterable[int]) -> Iterator[int]:
        numbers = list(rows)
        with progress(numbers) as bar:
            yield from bar

    table: dict[str, list[Any]] | None = None if chosen.rows is None else {}
    figures = evaluate_fill_mask(fill_mask, texts, walk, rows=table)
    lines = [
        f"bundle             {fill_mask.bundle.path.name} ({fill_mask.reason}), {fill_mask.precision}",
        f"texts              {len(texts)}, in {figures['chunks']} chunks",
        f"masked tokens      {figures['tokens']}",
        f"perplexity         {figures['perplexity']:.2f}",
        f"top-1 accuracy     {100 * figures['top1']:.2f} %",
        f"top-5 accuracy     {100 * figures['top5']:.2f} %",
        f"chunks per second  {figures['chunks_per_second']:.1f}",
    ]
    record = {"precision": fill_mask.precision, "provider": fill_mask.provider, **figures}
    return Evaluation(record, lines, table or {})
