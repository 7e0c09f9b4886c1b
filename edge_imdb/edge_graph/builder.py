"""GraphBuilder: collects the nodes and weights of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import __version__
from ..errors import GateError
from .quantize import Floats, quantize_rows

CONTRIB = "com.microsoft"
_OPSET, _IR = 20, 9
_EPSILON = 1e-12


class GraphBuilder:
    """Collects nodes and weights. Each method returns the name of the value that it adds."""

    def __init__(
        self,
        checkpoint: dict[str, Floats],
        bits: int | None,
        outliers: dict[str, Floats] | None = None,
        key_biases: dict[int, Floats] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.bits = bits
        self._outliers = outliers or {}
        self.key_biases = key_biases or {}
        # Names of attention sums, and of their inverses, which may leave the range of fp32.
        self.watched: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._quantized: dict[str, list[str]] = {}

    def weight(self, name: str) -> Floats:
        """A tensor of the checkpoint. Raises GateError if it is missing."""
        if name not in self._checkpoint:
            raise GateError(
                f"The checkpoint has no weights named {name!r}, which a DistilBERT of this task has: train it with "
                "edge-imdb, or export without --quantize."
            )
        return self._checkpoint[name]

    def constant(self, name: str, value: Any) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def has(self, name: str) -> bool:
        """Whether there is a constant of this name."""
        return name in self._constants

    def node(self, operator: str, inputs: list[str], output: str, contrib: bool = False, **attributes: Any) -> str:
        domain = CONTRIB if contrib else ""
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def several(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs, which gets the name of the last output."""
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=outputs[-1], **attributes))

    def quantize(self, value: str) -> list[str]:
        """Levels, scale and zero point of a value, in uint8 with one scale. Nodes that read it share them."""
        if value not in self._quantized:
            outputs = [f"{value}.{part}" for part in ("levels", "scale", "zero")]
            read = value
            if value in self._outliers:
                divisor = self.constant(f"{value}.outliers", 1 / self._outliers[value])
                read = self.node("Mul", [value, divisor], f"{value}.even")
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [read], outputs, name=f"{value}.quantize"))
            self._quantized[value] = outputs
        return self._quantized[value]

    def matmul(self, value: str, name: str, matrix: Floats, bias: Floats | None, output: str) -> str:
        """``value`` times a weight matrix, plus a bias. *Shape:* ``(..., rows)`` by ``(rows, columns)``."""
        added = [] if bias is None else [self.constant(f"{name}.bias", bias)]
        if self.bits is None:
            product = output if bias is None else f"{output}.product"
            self.node("MatMul", [value, self.constant(name, matrix)], product)
            return self.node("Add", [product, *added], output) if added else product
        if value in self._outliers:
            matrix = matrix * self._outliers[value][:, None]
        columns, scale = quantize_rows(matrix.T, self.bits)
        levels, unit, zero = self.quantize(value)
        inputs = [
            levels,
            self.constant(f"{name}.int8", columns.T),
            unit,
            self.constant(f"{name}.scale", scale[:, 0]),
            zero,
            self.constant(f"zero.{matrix.shape[1]}", np.zeros(matrix.shape[1], dtype=np.int8)),
        ]
        return self.node("MatMulIntegerToFloat", inputs + added, output, contrib=True)

    def linear(self, value: str, name: str, output: str) -> str:
        """A torch Linear of the checkpoint."""
        return self.matmul(value, name, self.weight(f"{name}.weight").T, self.weight(f"{name}.bias"), output)

    def norm(self, value: str, name: str, output: str) -> str:
        parameters = [self.constant(f"{name}.{part}", self.weight(f"{name}.{part}")) for part in ("weight", "bias")]
        return self.node("LayerNormalization", [value, *parameters], output, axis=-1, epsilon=_EPSILON)

    def add_norm(self, value: str, residual: str, name: str, output: str) -> str:
        return self.norm(self.node("Add", [value, residual], f"{output}.sum"), name, output)

    def embedding(self, name: str) -> list[str]:
        """The rows of an embedding matrix and, in int8, their scales."""
        matrix = self.weight(f"{name}.weight")
        if self.bits is None:
            return [self.constant(name, matrix)]
        # A lookup multiplies nothing that could overflow, so embeddings keep eight bits.
        rows, scale = quantize_rows(matrix)
        return [self.constant(f"{name}.int8", rows), self.constant(f"{name}.scale", scale)]

    def model(self, rows: str | int, columns: int, optional: Sequence[str] = ()) -> onnx.ModelProto:
        """The graph from ``input_ids`` to ``logits``, which has the shape ``(rows, columns)``.

        ``optional`` has the names of constants that a caller may replace with an input of its own.
        """
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "length"])]
        for name in optional:
            constant = self._constants[name]
            inputs.append(helper.make_tensor_value_info(name, constant.data_type, list(constant.dims)))
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, columns])
        return helper.make_model(
            helper.make_graph(self._nodes, "edge", inputs, [output], list(self._constants.values())),
            producer_name="edge-imdb",
            producer_version=__version__,
            ir_version=_IR,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
