"""layer and layer_at: a whole layer of DistilBERT, and the last layer at some rows only."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from ..runtime.bundle import KEPT_SHARES
from .builder import GraphBuilder
from .schedule import AT_LEAST, Schedule

# The largest power of e in fp32 is about the 88th. A row of attention is refused if its sum, or the inverse of its sum,
# times this factor leaves the range of fp32, which happens at about 61 nats. That leaves room, up to 88, for the values
# that the row is multiplied by.
_HEADROOM = 1e12


def layer(
    graph: GraphBuilder, number: int, hidden: str, config: dict[str, Any], schedule: Schedule | None = None
) -> str:
    """A whole layer. *Shape:* ``(1, length, width)`` to the same or, with a ``schedule``, to ``(1, kept, width)``."""
    name = f"distilbert.transformer.layer.{number}"
    bias = graph.key_biases.get(number)
    keys = graph.weight(f"{name}.attention.k_lin.weight").T
    query = graph.linear(hidden, f"{name}.attention.q_lin", f"{number}.q")
    key = graph.matmul(hidden, f"{name}.attention.k_lin", keys, bias, f"{number}.k")
    value = graph.linear(hidden, f"{name}.attention.v_lin", f"{number}.v")
    context, shares, inverse = _attention(graph, number, [query, key, value], config, near_zero=bias is not None)
    if schedule is not None:
        kept = _kept(graph, number, shares, inverse, schedule)
        context, hidden = (
            graph.node("Gather", [states, kept], f"{number}.{name}.kept", axis=1)
            for states, name in ((context, "context"), (hidden, "residual"))
        )
    return _after_attention(graph, number, context, hidden, config)


def _kept(graph: GraphBuilder, number: int, shares: str, inverse: str, schedule: Schedule) -> str:
    """The indices of the tokens to keep, in text order. *Shape:* ``(heads, length, length)`` to ``(kept,)``.

    These are ``[CLS]`` and the tokens that receive most attention, summed over heads and queries.
    """
    if number == 0:
        _counts(graph, schedule)
    one = graph.constant("one", np.array([1]))
    place = graph.constant(f"layer.{number}", np.array([number]))
    # [CLS] is always kept, so it is neither counted nor compared.
    count = graph.node(
        "Sub", [graph.node("Gather", ["kept.counts", place], f"{number}.count"), one], f"{number}.others"
    )
    received = graph.node("FusedMatMul", [inverse, shares], f"{number}.received", contrib=True, transA=1)
    two = graph.constant("two_axes", np.array([0, 1]))
    received = graph.node("ReduceSum", [received, two], f"{number}.received.sum", keepdims=0)
    end = graph.constant("end", np.array([np.iinfo(np.int64).max]))
    received = graph.node("Slice", [received, one, end], f"{number}.received.others")
    best, ordered = f"{number}.best", f"{number}.ordered"
    graph.several("TopK", [received, count], [f"{best}.values", best], largest=1, sorted=0)
    # Sorts the indices. ONNX has no Sort operator.
    graph.several("TopK", [best, count], [ordered, f"{ordered}.places"], largest=0, sorted=1)
    after = graph.node("Add", [ordered, one], f"{number}.after_cls")
    return graph.node("Concat", [graph.constant("zero", np.array([0])), after], f"{number}.kept", axis=0)


def _counts(graph: GraphBuilder, schedule: Schedule) -> None:
    """Add ``kept.counts``: the number of tokens to keep after each layer. *Shape:* ``(layers - 1,)``."""
    shares = graph.constant(KEPT_SHARES, np.array(schedule.kept, dtype=np.float32))
    length = graph.node("Cast", ["length"], "kept.length", to=TensorProto.FLOAT)
    counts = graph.node("Ceil", [graph.node("Mul", [length, shares], "kept.products")], "kept.rounded")
    counts = graph.node("Cast", [counts], "kept.by_share", to=TensorProto.INT64)
    least = graph.node("Min", ["length", graph.constant("at_least", np.array([AT_LEAST]))], "kept.least")
    graph.node("Max", [counts, least], "kept.counts")


def _attention(
    graph: GraphBuilder, number: int, parts: list[str], config: dict[str, Any], *, near_zero: bool
) -> tuple[str, str, str]:
    """Attention of queries, keys and values. *Shape:* three times ``(1, length, width)`` to the same.

    Also returns the exponentials of the scores, ``(heads, length, length)``, and the factors that normalise them,
    ``(heads, length, 1)``. If ``near_zero``, the largest score of a row isn't subtracted before Exp.
    """
    heads, width = config["n_heads"], config["dim"]
    size = width // heads
    shape = graph.constant("by_head", np.array([-1, heads, size]))
    query, key, value = (graph.node("Reshape", [part, shape], f"{part}.heads") for part in parts)
    # The transposed inputs select the heads by strides, so nothing is copied.
    scores = graph.node(
        "FusedMatMul",
        [query, key],
        f"{number}.scores",
        contrib=True,
        transBatchA=1,
        transBatchB=1,
        transB=1,
        alpha=size**-0.5,
    )
    shares, total = _exponentials(graph, number, scores, near_zero=near_zero)
    inverse = graph.node("Div", [graph.constant("unity", np.float32(1)), total], f"{number}.inverse")
    if near_zero:
        graph.watched += [total, inverse]
    mixed = graph.node("FusedMatMul", [shares, value], f"{number}.mixed", contrib=True, transBatchB=1)
    mixed = graph.node("Mul", [mixed, inverse], f"{number}.weighted")
    mixed = graph.node("Transpose", [mixed], f"{number}.joined", perm=[1, 0, 2])
    context = graph.node("Reshape", [mixed, graph.constant("flat", np.array([1, -1, width]))], f"{number}.context")
    return context, shares, inverse


def _exponentials(graph: GraphBuilder, number: int, scores: str, *, near_zero: bool) -> tuple[str, str]:
    """A softmax without its division. *Shape:* ``(..., length)`` to the same, and ``(..., 1)``, the sum of each row."""
    last = graph.constant("last_axis", np.array([-1]))
    if not near_zero:
        largest = graph.node("ReduceMax", [scores, last], f"{number}.largest", keepdims=1)
        scores = graph.node("Sub", [scores, largest], f"{number}.scores.below")
    shares = graph.node("Exp", [scores], f"{number}.shares")
    return shares, graph.node("ReduceSum", [shares, last], f"{number}.total", keepdims=1)


def guarded(graph: GraphBuilder, value: str, output: str) -> str:
    """``value``, or NaN if the sum of a row of attention left the range of fp32."""
    if not graph.watched:
        return graph.node("Identity", [value], output)
    watched = graph.watched
    if graph.has(KEPT_SHARES):
        # Reduce each to one number, because with token dropping their lengths differ.
        watched = [graph.node("ReduceSum", [name], f"{name}.watched", keepdims=0) for name in watched]
    total = graph.node("ReduceSum", [graph.node("Sum", watched, "watched")], "watched.total", keepdims=0)
    wide = graph.node("Mul", [total, graph.constant("headroom", np.float32(_HEADROOM))], "watched.wide")
    # This is 0, or NaN if the sum is infinite.
    nothing = graph.node("Sub", [wide, wide], "watched.nothing")
    return graph.node("Add", [value, nothing], output)


def layer_at(graph: GraphBuilder, number: int, hidden: str, rows: str, config: dict[str, Any]) -> str:
    """A layer at some rows of ``hidden`` only, without keys and values. *Shape:* ``(1, rows, width)``."""
    name = f"distilbert.transformer.layer.{number}.attention"
    heads, width = config["n_heads"], config["dim"]
    size = width // heads
    # For each head, a copy of the row that is 0 outside that head's part.
    part_of = np.kron(np.eye(heads, dtype=np.float32), np.ones((1, size), dtype=np.float32))
    parts = graph.constant("heads", part_of)
    scale = np.float32(size**-0.5)
    query = graph.matmul(
        rows,
        f"{name}.q_lin",
        scale * graph.weight(f"{name}.q_lin.weight").T,
        scale * graph.weight(f"{name}.q_lin.bias"),
        f"{number}.query",
    )
    query = graph.node("Unsqueeze", [query, graph.constant("axis_2", np.array([2]))], f"{number}.query.wide")
    query = graph.node("Mul", [query, parts], f"{number}.query.apart")
    query = graph.node("Reshape", [query, graph.constant("flat", np.array([1, -1, width]))], f"{number}.query.heads")
    # (1, rows * heads, width): the queries of each head and row, multiplied into the weights of the keys.
    sought = graph.matmul(query, f"{name}.k_lin", graph.weight(f"{name}.k_lin.weight"), None, f"{number}.sought")
    scores = graph.node("FusedMatMul", [sought, hidden], f"{number}.scores", contrib=True, transB=1)
    shares, total = _exponentials(graph, number, scores, near_zero=False)
    mean = graph.node("Div", [graph.node("MatMul", [shares, hidden], f"{number}.mixed"), total], f"{number}.mean")
    value = graph.matmul(mean, f"{name}.v_lin", graph.weight(f"{name}.v_lin.weight").T, None, f"{number}.value")
    value = graph.node(
        "Reshape", [value, graph.constant("rows_by_head", np.array([1, -1, heads, width]))], f"{number}.value.heads"
    )
    value = graph.node("Mul", [value, parts], f"{number}.value.apart")
    value = graph.node("ReduceSum", [value, "axis_2"], f"{number}.value.joined", keepdims=0)
    bias = graph.constant(f"{name}.v_lin.bias", graph.weight(f"{name}.v_lin.bias"))
    context = graph.node("Add", [value, bias], f"{number}.context")
    return _after_attention(graph, number, context, rows, config)


def _after_attention(graph: GraphBuilder, number: int, context: str, residual: str, config: dict[str, Any]) -> str:
    name = f"distilbert.transformer.layer.{number}"
    inner = graph.linear(context, f"{name}.attention.out_lin", f"{number}.out")
    attended = graph.add_norm(inner, residual, f"{name}.sa_layer_norm", f"{number}.attended")
    inner = graph.linear(attended, f"{name}.ffn.lin1", f"{number}.inner")
    inner = graph.node("Gelu" if config["activation"] == "gelu" else "Relu", [inner], f"{number}.active")
    inner = graph.linear(inner, f"{name}.ffn.lin2", f"{number}.outer")
    return graph.add_norm(inner, attended, f"{name}.output_layer_norm", f"{number}.hidden")
