"""check_external_data: find out where an ONNX graph keeps its weights, without opening it in ONNX Runtime.

ONNX Runtime reads weights from any file that a graph names, even past the file's end. So a bundle's graph is checked
here first: this module walks its protocol buffer, by the field numbers of onnx.proto, wherever it can contain tensors.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from ..errors import BundleError, raised_by

# For each message, the fields that lead to tensors: field number and kind of message.
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_DEPTH = 32


def check_external_data(graph: Path, data: Path | None) -> None:
    """Raise BundleError unless every tensor of ``graph`` is in the graph itself or within the file ``data``.

    Source: onnx.proto, TensorProto.external_data.
    """
    size = data.stat().st_size if data is not None else 0
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for entries in _external(content, 0, len(content), "Model", 0):
                place = dict(entries)
                if len(place) < len(entries):
                    raise ValueError("a tensor has the same storage key twice")
                name = place.get(b"location", b"").decode("utf-8", "replace")
                if data is None or name != data.name:
                    raise BundleError(
                        f"{graph} takes weights from {name!r:.80}, not from its own file: export the bundle again."
                    )
                offset, length = (int(place.get(key, b"0").decode("ascii")) for key in (b"offset", b"length"))
                if offset < 0 or length < 0 or offset + length > size:
                    raise BundleError(f"{graph} takes weights from beyond the end of {data}: export the bundle again.")
    except (ValueError, IndexError) as error:
        raise BundleError(f"{graph} is not an ONNX graph ({error}): export the bundle again.") from None
    except BundleError:
        raise
    except OSError as error:
        if not raised_by(error):
            raise
        raise BundleError(f"{graph} can't be read ({error.strerror}): export or copy the bundle again.") from None


def _external(content: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """For each tensor in a message that is stored in another file, the entries that say where."""
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    inner = _FIELDS[kind]
    entries = []
    for number, low, high in _fields(content, start, end):
        found = inner.get(number)
        if found == "Entry":
            pair = {n: content[a:b] for n, a, b in _fields(content, low, high)}
            if sorted(pair) != [1, 2] or sum(1 for _ in _fields(content, low, high)) != 2:
                raise ValueError("a storage entry has no key and value")
            entries.append((pair[1], pair[2]))
        elif found is not None:
            yield from _external(content, low, high, found, depth + 1)
    if entries:
        yield entries


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each length-delimited field of a message; other fields are skipped."""
    at = start
    while at < end:
        tag, at = _varint(content, at)
        wire = tag & 7
        if wire == 2:
            length, at = _varint(content, at)
            if at + length > end:
                raise ValueError("it is truncated")
            yield tag >> 3, at, at + length
            at += length
        elif wire == 0:
            at = _varint(content, at)[1]
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"byte {at - 1} doesn't start a field")
    if at != end:
        raise ValueError("it is truncated")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    byte = content[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while True:
        at += 1
        byte = content[at]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at + 1
        if shift > 63:
            raise ValueError("a number in it has no end")
