"""Model: a bundle that is ready to run. Pipeline: the base class of Sentiment and FillMask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, UsageError
from .bundle import EMBEDDED, Bundle
from .executor import Executor, Signature
from .options import PRECISIONS, RuntimeOptions
from .session import OnnxRuntime
from .source import Source
from .tokenizer import read_tokenizer

# The int8 graph takes only the first of these.
INPUTS = ("input_ids", "attention_mask")


class Model:
    """The bundle of a ``source``, ready to run: its tokenizer, and its graph of ``precision`` in an ``executor``.

    ``output`` is the shape of the logits. ``extra`` has further inputs of the graph, for every run.

    Raises BundleError, HubError, ProviderError, UsageError.

    >>> model = Model(Source("sentiment", None, None), OnnxRuntime(threads=1), "auto")
    >>> model.precision, model.run(model.tokenizer.encode("great film").ids).shape
    ('int8', (1, 2))
    """

    def __init__(self, source: Source, executor: Executor, precision: str) -> None:
        self.source, self.bundle, self.executor = source, source.bundle, executor
        if precision == "auto":
            first, second = ("int8", "fp32") if executor.preferred == "int8" else ("fp32", "int8")
            precision = first if first in self.bundle.graphs else second
        self.precision = precision
        self.tokenizer = read_tokenizer(source)
        self.extra: dict[str, NDArray[Any]] = {}
        self.closed = False
        signature = executor.signature(source.graph(precision))
        self._masked = set(signature.inputs) == set(INPUTS)
        if not (self._masked or set(signature.inputs) == {INPUTS[0]}) or list(signature.outputs) != ["logits"]:
            raise BundleError(
                f"The graph of {self.bundle.path} has inputs or outputs other than input_ids, attention_mask and "
                "logits: export the bundle again."
            )
        self.output = signature.outputs["logits"]

    def run(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """The logits of one text.

        *Shape:* ``(length,)`` to what the graph returns for a batch of one text.
        Raises BundleError if the graph fails on the text, UsageError after ``close``.
        """
        # One text per run and no padding, so that a score can't depend on other texts.
        row = np.asarray([ids], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": np.ones_like(row)} if self._masked else {"input_ids": row}
        return self.run_graph(self.precision, {**feed, **self.extra})["logits"]

    def signature(self, name: str) -> Signature:
        """The inputs and outputs of another graph of the bundle. Raises BundleError, UsageError after ``close``."""
        self._check_open()
        return self.executor.signature(self.source.graph(name))

    def run_graph(self, name: str, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All outputs of the graph ``name``, after checking that they are numbers.

        Raises BundleError if they aren't, or if the graph fails on ``feed``; UsageError after ``close``.
        """
        self._check_open()
        results = self.executor.run(self.source.graph(name), feed)
        if not all(np.isfinite(result).all() for result in results.values()):
            raise BundleError(
                f"The graph of {self.bundle.path} gives logits that are not numbers for this text: export it again, "
                "with training reviews that are more like it."
            )
        return results

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(f"The {self.bundle.task} model was closed: make a new one.")

    def close(self) -> None:
        """Free the executor's memory and end its threads, as soon as no other thread uses them any more."""
        self.closed = True
        self.executor.close()


class Pipeline:
    """The base class of Sentiment and FillMask: everything except the call itself.

    A pipeline is pickled and copied as its constructor's arguments, so the receiver (a spawned process, a joblib
    worker, a Ray actor) opens the bundle again. The same bundle, by the sha256 of its manifest, must exist there.
    ``close``, or the end of a ``with`` block, frees the memory.

    >>> from edge_imdb import Sentiment
    >>> with Sentiment() as pipeline:
    ...     print(pipeline.provider, pipeline.precision)
    CPUExecutionProvider int8
    """

    # The name, in TASKS, of the task whose bundles the pipeline opens.
    bundle_task: ClassVar[str]
    _model: Model
    bundle: Bundle
    reason: str
    precision: str

    def __init__(
        self,
        options: RuntimeOptions,
        executor: Executor | None,
        behaviour: dict[str, Any],
    ) -> None:
        """``executor`` runs the graphs; None means ONNX Runtime. ``behaviour`` has the constructor's other arguments.

        Raises UsageError if ``provider`` or ``threads`` is given together with an executor.
        """
        provider, threads, precision = options.provider, options.threads, options.precision
        if precision not in PRECISIONS:
            raise UsageError(f"There is no precision {precision!r}: use {', '.join(PRECISIONS)}.")
        if executor is not None and (provider != "auto" or threads is not None):
            raise UsageError(
                "provider and threads are arguments of ONNX Runtime: leave them out, or leave out executor."
            )
        source = Source(self.bundle_task, options.model, options.revision)
        self._model = Model(source, OnnxRuntime(provider, threads) if executor is None else executor, precision)
        self.bundle = source.bundle
        self.reason = source.reason
        self.precision = self._model.precision
        shared = {"provider": provider, "threads": threads, "precision": precision, "executor": executor}
        self._arguments = {**shared, **behaviour}

    @property
    def provider(self) -> str:
        """The execution provider in use, by ONNX Runtime's name."""
        return self._model.executor.provider

    @property
    def threads(self) -> int | None:
        """The number of threads per text; None if the number of cores is unknown and ONNX Runtime chooses."""
        return self._model.executor.threads

    def close(self) -> None:
        """Free the memory and the threads. Later calls raise UsageError; closing twice does no harm."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # The receiver opens this bundle, whatever its environment variables say. Only the embedded bundle may have
        # another path there.
        location: Any = None if self.reason == "embedded" else str(self.bundle.path.absolute())
        location = self._model.source.repository or location
        return _open_again, (type(self), self.bundle.task, location, self._arguments, self.bundle.digest)

    def __repr__(self) -> str:
        labels = f"; {', '.join(self.bundle.labels)}" if self.bundle.labels else ""
        state = "closed" if self._model.closed else f"{self.precision} on {self.provider}"
        return f"<{type(self).__name__} {self._model.source.name}: {state}{labels}>"


def _open_again(
    kind: type[Any], task: str, location: str | tuple[str, str] | None, arguments: dict[str, Any], digest: str
) -> Any:
    """Called by unpickling. Raises BundleError if the bundle is missing here or is a different one.

    ``location`` is a folder, a repository of the Hub with its commit, or None for the embedded bundle.
    """
    if isinstance(location, tuple):
        opened = kind(location[0], revision=location[1], **arguments)
    else:
        opened = kind(EMBEDDED / task if location is None else Path(location), **arguments)
    if opened.bundle.digest != digest:
        cure = (
            "install the same version of edge-imdb here and there"
            if location is None
            else "copy the bundle here, or pickle anew"
        )
        raise BundleError(f"The bundle {opened.bundle.path} is not the one that was pickled: {cure}.")
    return opened
