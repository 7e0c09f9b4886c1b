"""Task: everything that the rest of the package needs to know about a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from ..runtime.behaviour import Behaviour, get
from ..runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from ..runtime.model import Pipeline
    from .http import Http


class Task(ABC):
    """A task: one instance for each folder below ``edge_imdb/tasks``, named ``TASK`` there.

    The parts import their modules when they are first used, so that asking for a name loads neither NumPy nor ONNX
    Runtime.
    """

    name: ClassVar[str]
    # The task's name on the Hugging Face Hub.
    pipeline_tag: ClassVar[str]
    # The arguments of the pipeline's constructor that RuntimeOptions doesn't have.
    behaviour: ClassVar[tuple[str, ...]] = ()
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
    @abstractmethod
    def http(self) -> Http:
        """The endpoints of the server."""

    def open(self, options: RuntimeOptions, **behaviour: Any) -> Any:
        """Open a bundle of this task. ``behaviour`` has the further arguments of the pipeline's constructor.

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
