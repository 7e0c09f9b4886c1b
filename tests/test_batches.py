from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

LENGTHS = np.random.default_rng(0).integers(3, 513, size=2005).tolist()


def order(seed: int = 0, epoch: int = 0) -> list[int]:
    from edge_imdb.train.batches import GroupedByLength

    sampler = GroupedByLength(LENGTHS, 16, seed)
    sampler.set_epoch(epoch)
    assert len(sampler) == 2005
    return list(sampler)


def test_every_row_comes_once_an_epoch() -> None:
    assert sorted(order()) == list(range(2005))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert order() == order()
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_hold_little_padding_and_come_in_random_order() -> None:
    rows = np.array(LENGTHS)[order()]
    batches = rows[:2000].reshape(-1, 16)
    padded = (batches.max(axis=1, keepdims=True) - batches).sum()
    assert padded < 0.05 * rows.sum()
    means = batches.mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
