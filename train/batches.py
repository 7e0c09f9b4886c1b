"""GroupedByLength: put rows of similar length into one batch, and the batches in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# The number of batches that are sorted together: enough to leave little padding, few enough to mix well in each epoch.
POOL = 50


class GroupedByLength(Sampler[int]):
    """Yields row indices, ``batch_size`` of similar length at a time.

    transformers' own LengthGroupedSampler leaves each pool sorted from long to short, so that the model sees long
    reviews for a while and then short ones, and drifts with them: on IMDb, at the end of such a cycle, it labelled
    nearly all of the longest validation reviews as negative. Here the batches are shuffled. Their order depends only on
    ``seed`` and the epoch, so a resumed run gets the same batches.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = torch.tensor(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self._lengths), generator=generator)
        batches: list[torch.Tensor] = []
        for start in range(0, len(order), POOL * self._batch_size):
            pool = order[start : start + POOL * self._batch_size]
            pool = pool[self._lengths[pool].argsort(stable=True)]
            batches += [pool[cut : cut + self._batch_size] for cut in range(0, len(pool), self._batch_size)]
        # The batch that may be short stays last; otherwise the boundaries of the others would shift.
        last = batches.pop()
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()
        yield from last.tolist()
