"""write_edge: write the graph that runs on the device, node by node, from the weights of a run.

It computes the same function as the standard graph, with less work:

- Each text runs alone and unpadded, so there is no attention mask and no arithmetic for one.
- The last layer is computed only at the rows that the head reads: ``[CLS]`` for sentiment, and for fill-mask the
  ``[MASK]`` positions, which the graph finds itself. There are few rows, so their queries can be multiplied into the
  keys' weights, and the weighted mean of the hidden states into the values' weights. This layer then needs no keys and
  no values: ``q . (W h + b) = (q W) . h + q . b``, in which ``q . b`` is the same for every position and cancels in the
  softmax, and ``sum p (V h + c) = V (sum p h) + c``.
- Attention is written out, so that it gives the same bits on every x86 CPU with AVX2. ONNX Runtime's fused operator and
  its Softmax add up a row in a different order with AVX-512 than with AVX2, and now and then that difference decides
  how a value is rounded when it is quantized. Its matrix products, Exp and ReduceSum give the same bits on both.
- A softmax subtracts the largest score of each row, which takes two more passes over all scores. Here a bias of the
  keys replaces that: in ``q . (k + b)`` any ``b`` adds the same number to a whole row of scores, which cancels. So
  ``b`` is chosen, by least squares, to bring the largest scores of calibration texts nearest to 0. If one of them stays
  far from 0, the layer subtracts the largest score after all. If a text differs so much from the calibration texts that
  the sum of a row leaves the range of fp32, the graph returns NaN, and the runtime reports an error.
- Residual addition and layer norm are two operators, because the fused one of ONNX Runtime's CPU provider takes seven
  times as long as both. A session on this graph must leave its optimiser off, because it would fuse them again.
- With a schedule, tokens are dropped: after the attention of a layer, the next layers only get the tokens that received
  most of it, which at least halves the work (``schedule.py``). One matrix product sums the attention that each token
  receives; two TopK nodes choose and order the tokens.
- Queries, keys and values share one quantization of their input. The embedding matrix is stored once, in int8 with a
  scale for each row; in fill-mask it is both the lookup at the bottom and the projection at the top.

One or two input channels of the feed-forward layers are ten times as large as the others and would take most of the
256 levels. Channels that are outliers on the calibration texts are divided by the factor that brings them to three
times the median channel, and their weights are multiplied by it (the migration of Xiao et al. 2023, "SmoothQuant",
section 4, applied to outliers only). That halves the error of the logits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from safetensors.numpy import load_file

from ..errors import GateError, UsageError
from ..runtime.bundle import DATA_SUFFIX, KEPT_SHARES
from ..tasks import TASKS
from ..tasks.task import CLASSIFIER
from .attention import guarded, layer, layer_at
from .builder import GraphBuilder
from .calibrate import calibrate
from .quantize import LEVELS
from .schedule import Schedule
from .targets import TARGETS


def write_edge(
    source: Path,
    target: Path,
    task: str,
    *,
    mask_id: int | None = None,
    bits: int | None = TARGETS["portable"],
    calibration: Iterable[Sequence[int]] = (),
    schedule: Schedule | None = None,
) -> None:
    """Write the edge graph of the DistilBERT in the folder ``source`` (config.json, model.safetensors) to ``target``.

    Its weights go to a second file, whose name is that of ``target`` with ``_data`` at the end.

    Input ``input_ids``, *shape:* ``(1, length)``, one text. Output ``logits``, *shape:* ``(1, labels)`` for sentiment
    and ``(masks, vocabulary)`` for fill-mask, for the positions that hold ``mask_id``, of which there is at least one.
    ``bits`` is the width of the int8 weights; with None everything is in fp32, which tests compare with.
    ``calibration`` has texts, as token ids, that show which channels are outliers and how large attention scores get.
    Without them no channel is treated as an outlier, and every layer subtracts its largest scores.

    With a ``schedule``, which is for classifiers, tokens are dropped from layer to layer. The graph then has a
    second input, ``kept_shares``, fp32, *shape:* ``(layers - 1,)``, which may be left out: with ones in it, all tokens
    stay.

    Raises UsageError if the schedule doesn't fit the model, GateError if the checkpoint isn't a DistilBERT of ``task``,
    or if this graph can't express it.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    weights = {name: tensor.astype(np.float32) for name, tensor in load_file(source / "model.safetensors").items()}
    if config.get("model_type") != "distilbert" or config.get("activation") not in ("gelu", "relu"):
        raise GateError(
            f"{source} is a {config.get('model_type')} with activation {config.get('activation')!r}, and the int8 "
            "graph needs a DistilBERT with gelu or relu: export without --quantize."
        )
    if schedule is not None:
        schedule.check(config["n_layers"])
        if TASKS[task].head != CLASSIFIER:
            raise UsageError(f"A schedule of token dropping is for classifiers, and the task is {task}: leave it out.")
    graph = GraphBuilder(weights, bits)
    texts = list(calibration)
    if texts:
        exact = build(GraphBuilder(weights, None), config, task, mask_id)
        graph = GraphBuilder(weights, bits, *calibrate(exact, texts, config))
    _save(build(graph, config, task, mask_id, schedule), target)


def _save(model: onnx.ModelProto, target: Path) -> None:
    """Write the graph, and its weights to a second file, which ONNX Runtime maps into memory instead of copying it."""
    data = target.with_name(target.name + DATA_SUFFIX)
    # onnx would append to an existing file.
    data.unlink(missing_ok=True)
    onnx.save(model, target, save_as_external_data=True, location=data.name, size_threshold=1024)
    # onnx creates a file that only its owner can read.
    data.chmod(target.stat().st_mode)


def build(
    graph: GraphBuilder,
    config: dict[str, Any],
    task: str,
    mask_id: int | None,
    schedule: Schedule | None = None,
) -> onnx.ModelProto:
    hidden = _embeddings(graph)
    last = config["n_layers"] - 1
    for number in range(last):
        hidden = layer(graph, number, hidden, config, schedule)
    if TASKS[task].head == CLASSIFIER:
        span = [graph.constant(name, np.array([n])) for name, n in (("zero", 0), ("one", 1), ("axis_1", 1))]
        rows = graph.node("Slice", [hidden, *span], "cls")
        optional = [KEPT_SHARES] if schedule is not None and last else []
        return graph.model(*_classifier(graph, layer_at(graph, last, hidden, rows, config)), optional)
    if mask_id is None:
        raise UsageError("A fill-mask graph needs mask_id, the token id of [MASK].")
    rows = _mask_rows(graph, hidden, mask_id, config)
    return graph.model(*_vocabulary(graph, layer_at(graph, last, hidden, rows, config), config))


def _embeddings(graph: GraphBuilder) -> str:
    """*Shape:* ``(1, length)`` to ``(1, length, width)``."""
    length = graph.node("Shape", ["input_ids"], "length", start=1, end=2)
    first = [graph.constant("zero", np.array([0])), length, graph.constant("axis_0", np.array([0]))]
    found = []
    for kind, operator, places in (("word", "Gather", ["input_ids"]), ("position", "Slice", first)):
        tables = graph.embedding(f"distilbert.embeddings.{kind}_embeddings")
        looked_up = [graph.node(operator, [table, *places], f"{kind}.{n}") for n, table in enumerate(tables)]
        if graph.bits is not None:
            levels = graph.node("Cast", looked_up[:1], f"{kind}.levels", to=TensorProto.FLOAT)
            looked_up = [graph.node("Mul", [levels, looked_up[1]], kind)]
        found += looked_up
    return graph.norm(graph.node("Add", found, "embeddings.sum"), "distilbert.embeddings.LayerNorm", "embeddings")


def _classifier(graph: GraphBuilder, rows: str) -> tuple[int, int]:
    """*Shape:* ``(1, 1, width)`` to ``(1, labels)``. In fp32, because it is only one row per text."""
    value = graph.node("Squeeze", [rows, graph.constant("axis_1", np.array([1]))], "first")
    for name, output in (("pre_classifier", "pooled"), ("classifier", "classes")):
        matrix = graph.constant(name, graph.weight(f"{name}.weight"))
        bias = graph.constant(f"{name}.bias", graph.weight(f"{name}.bias"))
        value = graph.node("Gemm", [value, matrix, bias], output, transB=1)
        if name == "pre_classifier":
            value = graph.node("Relu", [value], "pooled.active")
    guarded(graph, value, "logits")
    return 1, len(graph.weight("classifier.bias"))


def _mask_rows(graph: GraphBuilder, hidden: str, mask_id: int, config: dict[str, Any]) -> str:
    """The hidden states at ``[MASK]``. *Shape:* ``(1, length, width)`` to ``(1, masks, width)``."""
    found = graph.node("Equal", ["input_ids", graph.constant("mask_id", np.int64(mask_id))], "is_mask")
    places = graph.node("NonZero", [found], "mask_places")
    places = graph.node("Transpose", [places], "mask_index", perm=[1, 0])
    rows = graph.node("GatherND", [hidden, places], "mask_states")
    return graph.node("Reshape", [rows, graph.constant("flat", np.array([1, -1, config["dim"]]))], "mask_rows")


def _vocabulary(graph: GraphBuilder, rows: str, config: dict[str, Any]) -> tuple[str, int]:
    """The masked-LM head. *Shape:* ``(1, masks, width)`` to ``(masks, vocabulary)``."""
    inner = graph.node("Reshape", [rows, graph.constant("rows", np.array([-1, config["dim"]]))], "head_rows")
    # In fp32, because these rows are few.
    matrix = graph.constant("vocab_transform", graph.weight("vocab_transform.weight"))
    bias = graph.constant("vocab_transform.bias", graph.weight("vocab_transform.bias"))
    inner = graph.node("Gemm", [inner, matrix, bias], "transform", transB=1)
    inner = graph.node("Gelu" if config["activation"] == "gelu" else "Relu", [inner], "transform.active")
    inner = graph.norm(inner, "vocab_layer_norm", "normed")
    words = graph.embedding("distilbert.embeddings.word_embeddings")
    bias = graph.constant("vocab_projector.bias", graph.weight("vocab_projector.bias"))
    size = len(graph.weight("vocab_projector.bias"))
    if graph.bits is None:
        guarded(graph, graph.node("Gemm", [inner, words[0], bias], "words", transB=1), "logits")
        return "masks", size
    # Each row becomes whole numbers from 1 to 127 with a scale of its own, so that no row depends on the others.
    largest = graph.node("Abs", [inner], "normed.abs")
    largest = graph.node("ReduceMax", [largest, graph.constant("last_axis", np.array([-1]))], "normed.max", keepdims=1)
    largest = graph.node("Max", [largest, graph.constant("tiny", np.float32(1e-12))], "row_reach")
    largest = guarded(graph, largest, "row_largest")
    unit = graph.node("Div", [inner, largest], "unit")
    step = graph.constant("step", np.float32(1 / LEVELS))
    middle = graph.constant("middle", np.uint8(LEVELS + 1))
    levels = graph.node("QuantizeLinear", [unit, step, middle], "levels")
    scale = graph.node("Reshape", [words[1], graph.constant("vector", np.array([-1]))], "word_scale")
    # QGemm needs as many zero points as scales.
    zeros = graph.constant(f"zero.{size}", np.zeros(size, dtype=np.int8))
    product = graph.node(
        "QGemm", [levels, step, middle, words[0], scale, zeros], "product", contrib=True, transA=0, transB=1, alpha=1.0
    )
    graph.node("Add", [graph.node("Mul", [product, largest], "unbiased"), bias], "logits")
    return "masks", size
