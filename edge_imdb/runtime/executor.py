"""Executor: what runs the graphs of a bundle. ONNX Runtime is the one that is shipped, in ``session.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .source import Graph

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a graph: for each its name and its shape.

    A shape is a list of numbers, with a name or None for a dimension that varies. ``optional`` has the inputs that a
    feed may leave out.

    >>> Signature({"input_ids": [1, "length"]}, {"logits": [1, 2]}).outputs["logits"][-1]
    2
    """

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    optional: dict[str, list[Any]] = field(default_factory=dict)


class Executor(ABC):
    """What runs the graphs of a bundle. Many threads may call one object.

    A subclass implements ``signature`` and ``run``, and is passed to a pipeline as ``executor``. A pipeline closes its
    executor when it is closed itself, so give each pipeline an executor of its own. To pickle the pipeline, its
    executor must be picklable too. After a fork, ``run`` must still work in the child process: an executor with
    threads of its own has to start them again there.

    Bundles have an fp32 graph, made of standard ONNX operators, and an int8 graph, which also uses operators of ONNX
    Runtime. ``preferred`` is the one to take for ``precision="auto"``. ``provider`` and ``threads`` are what the
    pipeline reports as its own.

    >>> class Neutral(Executor):
    ...     provider = "none"
    ...
    ...     def signature(self, graph):
    ...         return Signature({"input_ids": [1, "length"]}, {"logits": [1, 2]})
    ...
    ...     def run(self, graph, feed):
    ...         return {"logits": np.zeros((1, 2), dtype=np.float32)}
    >>> from edge_imdb import Sentiment
    >>> Sentiment(executor=Neutral())("great film")[0]["score"]
    0.5
    """

    preferred: str = "fp32"
    provider: str = ""
    threads: int | None = None

    @abstractmethod
    def signature(self, graph: Graph) -> Signature:
        """Open ``graph``, if it isn't open yet, and return its inputs and outputs.

        Raises BundleError if the graph can't be opened, ProviderError if the hardware isn't there.
        """

    @abstractmethod
    def run(self, graph: Graph, feed: Feed) -> dict[str, NDArray[np.float32]]:
        """All outputs of ``graph`` for the inputs in ``feed``, by name.

        Raises BundleError if the graph can't compute them. It must let an exception from a signal handler through, such
        as a time limit, so it may only translate the exceptions of the library that it calls: see
        ``errors.raised_by``.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to free
        """Free the memory and end the threads, once no other thread runs a graph. It may be called twice."""
