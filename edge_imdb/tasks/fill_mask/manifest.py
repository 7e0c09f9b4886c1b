"""read_behaviour: the fields of a fill-mask bundle's edge.json."""

from __future__ import annotations

from typing import Any

from ...data.text import Truncation
from ...runtime.behaviour import Behaviour
from ..task import read_truncation


def read_behaviour(record: dict[str, Any]) -> Behaviour:
    """Read ``truncation``, of which fill-mask has only the length. Raises ValueError if it is missing or wrong.

    >>> read_behaviour({"truncation": {"strategy": "window", "max_length": 512}}).truncation.max_length
    512
    """
    return Behaviour(truncation=Truncation(read_truncation(record, "window"), 0.5))
