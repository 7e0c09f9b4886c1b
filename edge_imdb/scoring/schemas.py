"""One Arrow schema for files that were written at different times by different programs.

A column of JSON has a kind: ``null``, ``bool``, ``int64``, ``double``, ``string``, or ``json``, which is the JSON text
of each value where the rows don't agree.
"""

from __future__ import annotations

from typing import Any

from ..data.tables import require
from ..errors import InputError

# Each column's field, and the file that it is from.
Fields = dict[str, tuple[Any, str]]
# The whole numbers that a double holds exactly.
_EXACT = 1 << 53


def json_kind(value: Any) -> str:
    """The kind of one value of JSON.

    >>> json_kind(3), json_kind([3])
    ('int64', 'json')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        # A larger number would be rounded if other rows have fractions.
        return "int64" if -_EXACT <= value <= _EXACT else "json"
    return {float: "double", str: "string"}.get(type(value), "json")


def merge_kinds(one: str, other: str) -> str:
    """The kind that holds the values of two.

    >>> merge_kinds("int64", "double"), merge_kinds("int64", "string"), merge_kinds("null", "bool")
    ('double', 'json', 'bool')
    """
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "double" if {one, other} == {"int64", "double"} else "json"


def json_field(name: str, kind: str) -> Any:
    """The Arrow field of a column of a kind. Metadata mark text that is JSON."""
    pyarrow = require("pyarrow", "pyarrow", "edge-imdb score")
    if kind == "json":
        return pyarrow.field(name, pyarrow.string(), metadata={"edge_imdb": "json"})
    types = {"null": pyarrow.null(), "bool": pyarrow.bool_(), "int64": pyarrow.int64(), "double": pyarrow.float64()}
    return pyarrow.field(name, types.get(kind, pyarrow.string()))


def unified(fields: Fields, own: list[Any], source: str, json_alone: bool) -> None:
    """Add the fields ``own`` of the file ``source`` to ``fields``. Raises InputError if types don't go together."""
    pyarrow = require("pyarrow", "pyarrow", "edge-imdb score")
    for one in own:
        if not one.metadata:
            # Dictionaries differ from batch to batch, and a part must have the same bytes whatever was read before.
            one = pyarrow.field(one.name, plain(one.type))
        there, origin = fields.get(one.name, (None, source))
        if there is None or pyarrow.types.is_null(there.type):
            fields[one.name] = one, source
        elif pyarrow.types.is_null(one.type) or (there.type, there.metadata) == (one.type, one.metadata):
            continue
        elif json_alone:
            kinds = ["json" if each.metadata else str(each.type) for each in (there, one)]
            fields[one.name] = json_field(one.name, merge_kinds(*kinds)), origin
        elif there.metadata or one.metadata or (both := _both(there.type, one.type)) is None:
            raise InputError(
                f"Column {one.name!r} is {there.type} in {origin} and {one.type} in {source}: "
                "score them separately, or save both with one type."
            )
        else:
            fields[one.name] = pyarrow.field(one.name, both), origin


def plain(kind: Any) -> Any:
    """The type of a column's values, without how they are stored.

    >>> import pyarrow
    >>> str(plain(pyarrow.dictionary(pyarrow.int32(), pyarrow.string())))
    'string'
    """
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(kind):
        return plain(kind.value_type)
    if types.is_string_view(kind):
        return pyarrow.string()
    return pyarrow.binary() if types.is_binary_view(kind) else kind


def _both(one: Any, other: Any) -> Any:
    """The type that holds every value of both; None if there is none."""
    import pyarrow

    types = pyarrow.types
    for small, large, wide in (
        (types.is_string, types.is_large_string, pyarrow.large_string()),
        (types.is_binary, types.is_large_binary, pyarrow.large_binary()),
    ):
        if all(small(each) or large(each) for each in (one, other)):
            return wide
    families = (
        types.is_signed_integer,
        types.is_unsigned_integer,
        types.is_floating,
        types.is_date,
        types.is_time,
        types.is_timestamp,
        types.is_duration,
        types.is_decimal,
        types.is_nested,
    )
    if not any(family(one) and family(other) for family in families):
        return None
    if types.is_timestamp(one) and one.tz != other.tz:
        return None
    if types.is_date(one):
        return pyarrow.date64()
    try:
        schemas = [pyarrow.schema([("", kind)]) for kind in (one, other)]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pyarrow.ArrowException:
        return None
