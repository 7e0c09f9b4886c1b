"""json_records and parse_object: JSON Lines, and the objects of a JSON array, read one by one as they arrive."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from ...errors import InputError
from .decoding import bad_byte, split_lines, text_parts

_SPACE = re.compile(r"[ \t\r\n]*")
_ARRAY = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*[{\]]")
NOT_AN_OBJECT = 'is not a JSON object: write one such as {"text": "…"}'


class _Repeated(dict[str, Any]):
    """An object with a key that occurs twice."""

    key = ""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeated = _Repeated(row)
    names = [name for name, _ in pairs]
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs)


def check_object(value: Any) -> tuple[dict[str, Any], str | None]:
    """A row and what is wrong with it, for a value of JSON.

    >>> check_object([1])[1]
    'is not a JSON object: write one such as {"text": "…"}.'
    """
    if isinstance(value, _Repeated):
        return dict(value), f"has two values named {value.key!r}: give each its own name."
    if not isinstance(value, dict):
        return {}, f"{NOT_AN_OBJECT}."
    return value, None


def parse_object(line: str) -> tuple[dict[str, Any], str | None]:
    """A row and what is wrong with it, for a line of JSON Lines.

    >>> parse_object('{"text": "great"}')
    ({'text': 'great'}, None)
    """
    if (byte := bad_byte(line)) is not None:
        return {}, f"is not UTF-8 (byte {byte:#04x}): save it as UTF-8 and try again."
    try:
        # Not decode() alone, which doesn't skip white space before the object.
        value = _DECODER.decode(line)
    except (ValueError, RecursionError):
        torn = "" if line.endswith(("\n", "\r")) else ", and the file ends within it"
        return {}, f"{NOT_AN_OBJECT} on each line{torn}."
    return check_object(value)


def json_records(file: IO[bytes], kind: str, name: str) -> Iterator[tuple[str, int, Any]]:
    """``("line", number, line)`` of JSON Lines, or ``("row", number, value)`` of a JSON array.

    Either may have the extension of the other. Raises InputError if an array isn't valid.
    """
    parts, start = text_parts(file), ""
    # A .jsonl may begin with a bad row such as [1], so that more than its bracket is needed to take it for an array.
    enough = 1 if kind == "json" else 2
    while len("".join(start.split())) < enough and (part := next(parts, None)) is not None:
        start += part
    if start.lstrip().startswith("[") if kind == "json" else _ARRAY.match(start):
        yield from _array(start.lstrip()[1:], parts, name)
        return
    for number, line in enumerate(split_lines(itertools.chain([start], parts)), 1):
        if line.strip():
            yield "line", number, line


def _array(text: str, parts: Iterator[str], name: str) -> Iterator[tuple[str, int, Any]]:
    """The values of an array; ``text`` and ``parts`` are what comes after its bracket."""
    number, at, ended = 0, 0, False
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        mark = text[at : at + 1]
        if mark == "]":
            if text[at + 1 :].strip() or any(part.strip() for part in parts):
                raise InputError(f"{name} has text after its array: give one array of objects, or use .jsonl.")
            return
        if mark and number and mark != ",":
            raise InputError(f"{name} row {number + 1} isn't separated from the previous row by a comma: add it.")
        begin = _SPACE.match(text, at + bool(number)).end()  # type: ignore[union-attr]
        value: Any = None
        try:
            value, end = _DECODER.raw_decode(text, begin)
            # A number may go on in the next part.
            whole = end < len(text) or ended
        except (ValueError, RecursionError):
            whole = False
            if ended or text[begin : begin + 1] == ",":
                raise InputError(
                    f"{name} row {number + 1} is not valid JSON, or the array has no end: "
                    'give one such as [{"text": "…"}, …].'
                ) from None
        if not whole:
            more = list(_until_brace(parts))
            ended = not more
            text, at = text[at:] + "".join(more), 0
            continue
        at = end
        number += 1
        yield "row", number, value


def _until_brace(parts: Iterator[str]) -> Iterator[str]:
    """Parts up to the first in which an object or the array may end, so that a long object isn't parsed for each."""
    for part in parts:
        yield part
        if "}" in part or "]" in part:
            return
