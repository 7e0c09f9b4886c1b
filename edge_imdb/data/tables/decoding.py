"""open_text, text_parts, split_lines: text in UTF-8 or UTF-16, whose lines end with a newline, a CR or both."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any

from .compression import BLOCK

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# No text has a NUL in every second byte, but UTF-16 without a byte order mark has.
_UTF16_LE = re.compile(rb"(?s)[^\0]\0[^\0]\0")
_UTF16_BE = re.compile(rb"(?s)\0[^\0]\0[^\0]")


def _encoding(head: bytes) -> tuple[str, str]:
    """The encoding of a text that begins with ``head``, and the error handler to decode it with.

    A byte that isn't UTF-8 is kept as a surrogate, so that the row in which it is can be named.
    """
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name, "replace"
    if _UTF16_LE.match(head):
        return "utf-16-le", "replace"
    if _UTF16_BE.match(head):
        return "utf-16-be", "replace"
    return "utf-8-sig", "surrogateescape"


def _head(file: Any) -> bytes:
    # Not more than there is: the next bytes of a pipe may come much later.
    return bytes(file.peek(4)[:4])


def open_text(file: IO[bytes]) -> io.TextIOWrapper:
    r"""A buffered stream as text. Line ends aren't translated, because they may be part of a field between quotes.

    >>> list(open_text(io.BufferedReader(io.BytesIO("great\rdull\r\n".encode("utf-16")))))
    ['great\r', 'dull\r\n']
    """
    encoding, errors = _encoding(_head(file))
    return io.TextIOWrapper(file, encoding, errors, newline="")  # type: ignore[type-var]


def text_parts(file: IO[bytes]) -> Iterator[str]:
    """The text of a buffered stream part by part, as it arrives."""
    encoding, errors = _encoding(_head(file))
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    while data := file.read1(BLOCK):  # type: ignore[attr-defined]
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def split_lines(parts: Iterable[str]) -> Iterator[str]:
    r"""The lines of a text that arrives in parts, with their ends.

    >>> list(split_lines(["gre", "at\r", "\ndull\rfi", "ne"]))
    ['great\r\n', 'dull\r', 'fine']
    """
    begun: list[str] = []
    for part in parts:
        if begun and begun[-1].endswith("\r") and part:
            # Only now it is known that this CR is no half of CRLF; or that it is.
            if part[0] == "\n":
                begun.append("\n")
                part = part[1:]
            yield "".join(begun)
            begun = []
        if "\n" not in part and "\r" not in part:
            begun.append(part)
            continue
        *ended, last = io.StringIO(part, newline="").readlines()
        for line in ended:
            yield "".join([*begun, line])
            begun = []
        if last.endswith("\n"):
            yield "".join([*begun, last])
            begun = []
        else:
            begun.append(last)
    if line := "".join(begun):
        yield line


def bad_byte(text: str) -> int | None:
    """The first byte of ``text`` that isn't UTF-8, as ``open_text`` keeps it; None if there is none.

    >>> bad_byte(b"caf\\xe9".decode("utf-8", "surrogateescape")), bad_byte("café")
    (233, None)
    """
    if text.isascii():
        return None
    found = re.search("[\udc80-\udcff]", text)
    return ord(found[0]) - 0xDC00 if found else None


def printable(text: str) -> str:
    """``text`` with U+FFFD for each byte that isn't UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if bad_byte(text) is not None else text
