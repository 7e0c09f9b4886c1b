"""read_behaviour: the fields of a sentiment bundle's edge.json."""

from __future__ import annotations

import math
from typing import Any

from ...data.text import Truncation
from ...runtime.behaviour import Behaviour, EarlyExit, get
from ..task import read_truncation


def read_behaviour(record: dict[str, Any]) -> Behaviour:
    """Read ``labels``, ``truncation``, ``calibration``, ``early_exit`` and ``token_dropping``.

    The last two may be missing or null. Raises ValueError if a field is missing or wrong.

    >>> read_behaviour(
    ...     {
    ...         "labels": ["neg", "pos"],
    ...         "truncation": {"strategy": "head+tail", "max_length": 384, "head_ratio": 0.25},
    ...         "calibration": {"temperature": 1.2},
    ...     }
    ... ).labels
    ['neg', 'pos']
    """
    labels = get(record, "labels", list)
    if len(labels) < 2 or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
        raise ValueError("'labels' must be two or more different names")
    temperature = _temperature(get(record, "calibration", dict))
    early_exit = token_dropping = None
    if record.get("early_exit") is not None:
        early_exit = _early_exit(get(record, "early_exit", dict))
    if record.get("token_dropping") is not None:
        token_dropping = _token_dropping(get(record, "token_dropping", dict))
    head_ratio = get(get(record, "truncation", dict), "head_ratio", (int, float))
    if not 0 <= head_ratio <= 1:
        raise ValueError(f"'truncation' is {record['truncation']!r:.80}")
    return Behaviour(
        truncation=Truncation(read_truncation(record, "head+tail"), float(head_ratio)),
        labels=labels,
        temperature=temperature,
        early_exit=early_exit,
        token_dropping=token_dropping,
    )


def _temperature(record: Any) -> float:
    value = get(record, "temperature", (int, float))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"'temperature' is {value!r}")
    return float(value)


def _early_exit(record: Any) -> EarlyExit:
    length, threshold = get(record, "length", int), get(record, "threshold", (int, float))
    if not 3 <= length <= 1 << 20 or not 0 <= threshold <= 1:
        raise ValueError(f"'early_exit' is {record!r:.80}")
    return EarlyExit(length, _temperature(record), float(threshold))


def _token_dropping(record: Any) -> tuple[float, ...]:
    kept = get(record, "kept", list)
    numbers = [share for share in kept if isinstance(share, (int, float)) and not isinstance(share, bool)]
    if len(numbers) != len(kept) or len(kept) > 1000 or not all(0 < share <= 1 for share in numbers):
        raise ValueError(f"'token_dropping' is {record!r:.80}")
    return tuple(float(share) for share in numbers)
