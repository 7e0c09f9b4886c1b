"""Behaviour: the fields of edge.json that belong to a task, read and checked by that task.

The runtime is below the tasks and imports none of them. ``edge_imdb.tasks`` sets ``tasks`` to its registry when
``edge_imdb`` is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..data.text import Truncation


@dataclass(frozen=True)
class EarlyExit:
    """When to stop reading a long review early.

    The review is first cut to ``length`` tokens. If the probability of the best label, calibrated with ``temperature``,
    is at least ``threshold``, the rest is not read.
    """

    length: int
    temperature: float
    threshold: float


@dataclass(frozen=True)
class Behaviour:
    """How the model of a bundle reads a text and what its outputs mean. A task sets only the fields that it has.

    If ``early_exit`` is None, every text is read at full length. ``token_dropping`` is the share of the tokens that the
    int8 graph keeps after each layer but the last; None keeps all of them.
    """

    truncation: Truncation
    labels: list[str] = field(default_factory=list)
    temperature: float = 1.0
    early_exit: EarlyExit | None = None
    token_dropping: tuple[float, ...] | None = None


class ReadsBehaviour(Protocol):
    """The part of a task that the runtime needs."""

    def read_behaviour(self, record: dict[str, Any]) -> Behaviour:
        """The behaviour in the manifest ``record``. Raises ValueError if a field is missing or wrong."""


# Every known task by its name.
tasks: Mapping[str, ReadsBehaviour] = {}


def get(record: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    """The value of ``key``, which must be of ``kind``. Raises ValueError, which names the key.

    >>> get({"max_length": 512}, "max_length", int)
    512
    >>> get({}, "max_length", int)
    Traceback (most recent call last):
    ValueError: 'max_length' is missing
    """
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{key!r} is missing")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key!r} is {value!r:.80}")
    return value
