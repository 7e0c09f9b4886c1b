"""Task: everything that the rest of the package needs to know about a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ..runtime.behaviour import Behaviour, get
from ..runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from ..runtime.bundle import Bundle
    from ..runtime.model import Pipeline
    from .card import Card
    from .evaluation import DataOptions, Evaluation, Progress
    from .http import Http
    from .rows import RowOptions


@dataclass(frozen=True)
class NoOptions:
    """The options of a pipeline that has none beyond RuntimeOptions."""


# What a model has above its encoder: a label for the text, or a word of the vocabulary for each mask.
CLASSIFIER, VOCABULARY = "classifier", "vocabulary"


class Task(ABC):
    """A task: one instance for each folder below ``edge_imdb/tasks``, named ``TASK`` there.

    The parts import their modules when they are first used, so that asking for a name loads neither NumPy nor ONNX
    Runtime.
    """

    name: ClassVar[str]
    # CLASSIFIER or VOCABULARY.
    head: ClassVar[str]
    # The task's name on the Hugging Face Hub.
    pipeline_tag: ClassVar[str]
    # "module:name" of the options and of the function of `edge-imdb train TASK`, and the help of that command. They are
    # strings because tasks are below train and export.
    train_options: ClassVar[str]
    train: ClassVar[str]
    train_help: ClassVar[str]
    # "module:name" of the subclass of export's Exporter.
    exporter: ClassVar[str]
    # The graph that the page in the browser runs; None if the page doesn't show the task.
    page_graph: ClassVar[str | None] = None
    # Whether the page needs a bundle of this task.
    page_needs: ClassVar[bool] = False

    @abstractmethod
    def read_behaviour(self, record: dict[str, Any]) -> Behaviour:
        """The task's fields of the manifest ``record``. Raises ValueError if a field is missing or wrong."""

    @property
    @abstractmethod
    def pipeline(self) -> type[Pipeline]:
        """The class that opens a bundle and is called with texts."""

    @property
    def pipeline_options(self) -> type[Any]:
        """A dataclass with the arguments of ``pipeline`` that RuntimeOptions doesn't have."""
        return NoOptions

    @property
    @abstractmethod
    def http(self) -> Http:
        """The endpoints of the server."""

    @property
    @abstractmethod
    def card(self) -> Card:
        """The task's parts of a model card."""

    @property
    @abstractmethod
    def evaluate(self) -> Callable[[Any, DataOptions, int, Progress], Evaluation]:
        """Measure an open model on a data set, with this many texts at a time, for ``edge-imdb evaluate``."""

    @abstractmethod
    def reads(self, bundle: Bundle) -> str:
        """How much of a text a bundle reads, for ``edge-imdb info``."""

    @property
    @abstractmethod
    def rows(self) -> type[RowOptions]:
        """The options of ``edge-imdb score`` and the columns that it adds."""

    def takes(self, option: str) -> bool:
        """Whether the pipeline's constructor has this argument besides those of RuntimeOptions."""
        return any(field.name == option for field in fields(self.pipeline_options))

    def open(self, options: RuntimeOptions, **behaviour: Any) -> Any:
        """Open a bundle of this task. ``behaviour`` has values for ``pipeline_options``.

        Raises the errors of the pipeline.
        """
        shared = {name: value for name, value in vars(options).items() if name != "model"}
        return self.pipeline(options.model, **shared, **behaviour)  # type: ignore[call-arg, arg-type]


def read_truncation(record: dict[str, Any], strategy: str) -> int:
    """The longest text in tokens, from the field ``truncation``, which must have this ``strategy``.

    Raises ValueError if the field is missing or wrong.

    >>> read_truncation({"truncation": {"strategy": "window", "max_length": 512}}, "window")
    512
    """
    cut = get(record, "truncation", dict)
    if get(cut, "strategy", str) != strategy:
        raise ValueError(f"'strategy' is {cut['strategy']!r:.80}")
    max_length: int = get(cut, "max_length", int)
    if not 3 <= max_length <= 1 << 20:
        raise ValueError(f"'truncation' is {cut!r:.80}")
    return max_length
