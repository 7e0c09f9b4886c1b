"""GroupedByLength and TokenBatches: batches of rows of similar length, in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from .options import padded

# The number of batches that are sorted together: enough to leave little padding, few enough to mix well in each epoch.
POOL = 50


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


class GroupedByLength(Sampler[int]):
    """Yields row indices, ``batch_size`` of similar length at a time.

    transformers' own LengthGroupedSampler leaves each pool sorted from long to short, so that the model sees long
    reviews for a while and then short ones, and drifts with them: on IMDb, at the end of such a cycle, it labelled
    nearly all of the longest validation reviews as negative. Here the batches are shuffled. Their order depends only on
    ``seed`` and the epoch, so a resumed run gets the same batches.

    >>> sorted(GroupedByLength([5, 9, 5], batch_size=2, seed=0))
    [0, 1, 2]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = torch.tensor(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of ``epoch``."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = _generator(self._seed, self._epoch)
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


class TokenBatches(Sampler[list[int]]):
    """Yields batches of row indices of at most ``tokens`` tokens, padding included, of similar length.

    The batches depend only on ``seed`` and the epoch. Every epoch has the same number of them, a multiple of
    ``processes``: where an epoch of ``epochs`` needs fewer than another, its largest batches are halved.

    >>> batches = TokenBatches([8, 8, 16, 8], tokens=16, epochs=1, seed=0)
    >>> len(batches), sorted(len(batch) for batch in batches)
    (3, [1, 1, 2])
    """

    def __init__(self, lengths: Sequence[int], tokens: int, epochs: int, seed: int, processes: int = 1) -> None:
        self._lengths = [padded(length) for length in lengths]
        self._tokens, self._seed, self._epoch = tokens, seed, 0
        most = max(len(self._packed(epoch)) for epoch in range(max(1, epochs)))
        # With fewer rows than that, a batch can't be halved often enough.
        self._count = min(-(-most // processes) * processes, len(lengths))

    @property
    def sampler(self) -> TokenBatches:
        """This object, where accelerate looks for ``set_epoch`` if several processes share the batches."""
        return self

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Choose the batches of ``epoch``."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._packed(self._epoch)
        while len(batches) < self._count:
            largest = max(range(len(batches)), key=lambda i: (len(batches[i]), -i))
            half = len(batches[largest]) // 2
            batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
        order = torch.randperm(len(batches), generator=_generator(self._seed, -1 - self._epoch))
        yield from (batches[i] for i in order.tolist())

    def _packed(self, epoch: int) -> list[list[int]]:
        """The fewest batches that a pass from the shortest to the longest row of each pool gives."""
        order = torch.randperm(len(self._lengths), generator=_generator(self._seed, epoch)).tolist()
        pool = max(1, POOL * self._tokens * len(self._lengths) // sum(self._lengths))
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            batch: list[int] = []
            for row in sorted(order[start : start + pool], key=self._lengths.__getitem__):
                # The newest row is the longest, so the batch is padded to its length.
                if batch and (len(batch) + 1) * self._lengths[row] > self._tokens:
                    batches.append(batch)
                    batch = []
                batch.append(row)
            batches.append(batch)
        return batches
