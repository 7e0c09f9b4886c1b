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
# How far from 0, in nats, a row's largest score may be on calibration texts for a layer not to subtract it.
REACH = 20.0
# Weights anywhere between two levels are 0.289 steps from the nearest, as a root mean square, give or take 0.13 over
# the root of their number. A row that is closer by five times that doesn't lie so by chance; a row under _EXACT lies on
# its levels.
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

    A row's largest weight sets its scale. But weights that were read back from int8 lie on just that grid. A short
    training moves most of them by less than half a step, so they would all be rounded back to where they were, and int8
    would forget what fp32 has learnt. Such a row gets a slightly wider scale, on which the moved weights round up and
    down alike. A row that lies on its grid exactly, because nothing moved it, keeps it.
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
