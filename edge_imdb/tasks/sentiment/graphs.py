"""keep_all_tokens, run_subsets: what only the graphs of a sentiment bundle can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError
from ...runtime.bundle import KEPT_SHARES
from ...runtime.model import Model


def keep_all_tokens(model: Model) -> dict[str, NDArray[np.float32]]:
    """The extra input with which the graph drops no tokens; empty if it never drops any.

    Raises BundleError if the graph isn't as the manifest says.

    >>> from edge_imdb.runtime.session import OnnxRuntime
    >>> from edge_imdb.runtime.source import Source
    >>> keep_all_tokens(Model(Source("sentiment", None, None), OnnxRuntime(), "int8"))
    {'kept_shares': array([1., 1., 1., 1., 1.], dtype=float32)}
    """
    dropping = model.bundle.token_dropping
    if dropping is None or model.precision != "int8":
        return {}
    ones = np.ones(len(dropping), dtype=np.float32)
    if model.signature("int8").optional.get(KEPT_SHARES) != [len(ones)]:
        raise BundleError(
            f"The graph of {model.bundle.path} doesn't drop tokens as its manifest says: export the bundle again."
        )
    return {KEPT_SHARES: ones}


def run_subsets(
    model: Model, ids: Sequence[int], kept: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logits for one text, and what they would be if ``[CLS]`` read only the tokens of each subset.

    *Shape:* ``(length,)`` and ``(subsets, length)`` to ``(1, labels)`` and ``(subsets, labels)``. ``kept`` is 1 at the
    tokens of a subset and 0 elsewhere. Source: ``edge_graph/subsets.py``.

    Raises BundleError if the bundle has no graph for this, or if the graph fails on the text; UsageError if the model
    was closed.

    >>> from edge_imdb.runtime.session import OnnxRuntime
    >>> from edge_imdb.runtime.source import Source
    >>> model = Model(Source("sentiment", None, None), OnnxRuntime(), "int8")
    >>> logits, subsets = run_subsets(model, [101, 2307, 2143, 102], np.eye(4, dtype=np.float32))
    >>> logits.shape, subsets.shape
    ((1, 2), (4, 2))
    """
    feed: dict[str, NDArray[Any]] = {"input_ids": np.asarray([ids], dtype=np.int64), "kept": kept}
    if not model.closed and "explain" not in model.bundle.graphs:
        raise BundleError(
            f"The bundle {model.bundle.path} has no graph that explains a label: export it again with --quantize."
        )
    signature = model.signature("explain")
    if set(signature.inputs) != set(feed) or list(signature.outputs) != ["logits", "subset_logits"]:
        raise BundleError(
            f"The graph of {model.bundle.path} that explains a label has inputs or outputs other than input_ids, kept, "
            "logits and subset_logits: export the bundle again."
        )
    results = model.run_graph("explain", feed)
    return results["logits"], results["subset_logits"]
