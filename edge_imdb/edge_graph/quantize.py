"""quantize_rows and recipe_of: int8 weights, and the record in edge.json of how they were made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks import TASKS
from ..tasks.task import VOCABULARY
from .targets import TARGETS

Floats = NDArray[np.float32]

# The activations of the vocabulary head have seven bits, from 1 to 127 around 64, because its weights keep eight.
LEVELS = 63
# A channel is an outlier if its largest value is over this many times that of the median channel. Chosen on validation
# among 1.5, 2, 3 and 4, as were the two inputs of the feed-forward layers among all inputs.
OUTLIER = 3.0
# A layer doesn't subtract the largest scores if all of them are within this many nats of 0 on the calibration texts.
REACH = 20.0
# Weights at random positions between two levels have a distance of 0.289 steps to the nearest level, as a root mean
# square, with a standard deviation of 0.13 over the root of their number. A row that is closer by five standard
# deviations isn't there by chance. A row with a distance under _EXACT lies on its levels.
_EXACT, _ANYWHERE, _CHANCE = 1e-3, 0.289, 5 * 0.13
# The first of these factors on its scale that takes such a row off its levels is used.
_WIDER = (1.04, 1.03, 1.05, 1.02, 1.06, 1.07, 1.08)


def recipe_of(task: str, target: str) -> dict[str, Any]:
    """The record of the quantization in edge.json."""
    recipe: dict[str, Any] = {
        "method": "dynamic",
        "target": target,
        "weights": "int8",
        "weight_bits": TARGETS[target],
        "activations": "uint8",
        "per_channel": True,
        "reduce_range": TARGETS[target] < 8,
        "embeddings": {"weights": "int8", "per_row": True},
        "outliers": {"scaled_to": OUTLIER, "of": "the median channel", "inputs": ["ffn.lin1", "ffn.lin2"]},
        "attention": {"weights": "fp32", "order": "fixed", "largest_scores": f"within {REACH:g} by the keys' bias"},
    }
    if TASKS[task].head == VOCABULARY:
        recipe["head"] = {"rows": "[MASK]", "activations": "uint8 of 7 bits, a scale a row", "transform": "fp32"}
    return recipe


def quantize_rows(matrix: Floats, bits: int = 8) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 with a scale for each row. *Shape:* ``(rows, columns)`` to the same and ``(rows, 1)``.

    The largest weight of a row sets its scale. Weights that were read back from int8 lie on exactly that grid. A short
    training moves most of them by less than half a step, so all of them would be rounded back, and int8 would lose what
    fp32 has learnt. Such a row gets a slightly larger scale, so that the moved weights round up and down equally often.
    A row that wasn't trained lies on its grid exactly, and keeps its scale.

    >>> rows, scale = quantize_rows(np.array([[0.5, -1.27]], dtype=np.float32))
    >>> rows.tolist()
    [[50, -127]]
    """
    top = 2 ** (bits - 1) - 1
    scale = np.abs(matrix).max(axis=1, keepdims=True) / top
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    anywhere = _ANYWHERE - _CHANCE / matrix.shape[1] ** 0.5
    distance = _distance(matrix, scale)
    moved = (distance > _EXACT) & (distance < anywhere)
    for width in _WIDER:
        if not moved.any():
            break
        wider = np.where(moved[:, None], scale * np.float32(width), scale)
        better = moved & (_distance(matrix, wider) >= anywhere)
        scale = np.where(better[:, None], wider, scale)
        moved &= ~better
    return np.clip(np.rint(matrix / scale), -top, top).astype(np.int8), scale


def _distance(matrix: Floats, scale: Floats) -> Floats:
    """For each row how far its weights lie from the grid, as a root mean square in steps. *Shape:* ``(rows,)``."""
    steps = matrix / scale
    distance: Floats = np.sqrt(np.mean((steps - np.rint(steps)) ** 2, axis=1))
    return distance
