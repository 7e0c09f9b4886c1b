"""python_values: any column of Arrow as values that JSON and CSV can hold, without loss and without an error."""

from __future__ import annotations

import base64
import math
from typing import Any


def python_values(column: Any) -> list[Any]:
    """The values of a ``pyarrow.Array`` or ``ChunkedArray``. *Shape:* ``(rows,)``.

    Dates, times and decimals are text as Arrow prints them, so that no year, fraction or digit is lost: Python's own
    types end at the year 9999 and at microseconds. A timestamp has the T of ISO 8601, a duration is a count of its
    unit, bytes are base64, and a map is a list of pairs.

    >>> import pyarrow
    >>> python_values(pyarrow.array([1], pyarrow.timestamp("ns")))
    ['1970-01-01T00:00:00.000000001']
    >>> python_values(pyarrow.array([[b"\\xff"], None]))
    [['/w=='], None]
    """
    chunks = getattr(column, "chunks", None)
    if chunks is not None:
        return [value for chunk in chunks for value in python_values(chunk)]
    import pyarrow

    kind, types = column.type, pyarrow.types
    if isinstance(column, pyarrow.ExtensionArray):
        return python_values(column.storage)
    if types.is_dictionary(kind):
        return python_values(column.dictionary_decode())
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return list(column.to_pylist())
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view)):
        return list(column.to_pylist())
    if any(test(kind) for test in _binary(types)):
        return [None if value is None else base64.b64encode(value).decode("ascii") for value in column.to_pylist()]
    if types.is_struct(kind):
        fields = [python_values(field) for field in column.flatten()]
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return [
            dict(zip(names, values, strict=True)) if valid else None
            for valid, values in zip(column.is_valid().to_pylist(), _rows(fields, len(column)), strict=True)
        ]
    if types.is_map(kind):
        return [None if one is None else [list(entry.values()) for entry in one] for one in _lists(column)]
    if types.is_nested(kind):
        return _lists(column)
    return _as_text(column, kind, types)


def _binary(types: Any) -> tuple[Any, ...]:
    return types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view


def _rows(columns: list[list[Any]], count: int) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * count


def _lists(column: Any) -> list[Any]:
    return [python_values(scalar.values) if scalar.is_valid else None for scalar in column]


def _as_text(column: Any, kind: Any, types: Any) -> list[Any]:
    import pyarrow

    try:
        text = column.cast(pyarrow.string()).to_pylist()
    except pyarrow.ArrowException:
        # A time zone that this machine doesn't know, for example.
        if types.is_timestamp(kind):
            return _as_text(column.cast(pyarrow.timestamp(kind.unit)), pyarrow.timestamp(kind.unit), types)
        return [None if not value.is_valid else str(value) for value in column]
    if types.is_timestamp(kind):
        return [value and value.replace(" ", "T", 1) for value in text]
    return list(text)


def without_nan(value: Any) -> Any:
    """``value`` with None for what JSON has no number for: NaN and the infinities.

    >>> without_nan({"a": [float("nan"), 1.5]})
    {'a': [None, 1.5]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return value
