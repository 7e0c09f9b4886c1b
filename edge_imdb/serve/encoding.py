"""decode_body and in_utf8: a request's body without its Content-Encoding, up to a size, and in UTF-8."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

from .errors import RequestError

# A gzip file may have several members, and a client that compresses a stream in chunks sends them. Every member costs
# an allocation, even an empty one of 20 bytes.
_MEMBERS = 100

# Encodings that a charset parameter may name although JSON is UTF-8. Only these, since Python has codecs that
# decompress.
_CHARSETS = {"iso-8859-1": "latin-1", "latin1": "latin-1", "latin-1": "latin-1", "windows-1252": "cp1252"}

Decoder = Callable[[bytes, int], bytes]


def decode_body(body: bytes, encodings: str, most: int) -> bytes:
    """The body without its content encodings. Source: RFC 9110, section 8.4.

    Arguments:
        body: the bytes as they were received.
        encodings: the value of the Content-Encoding header, "" if there is none.
        most: the largest size of the result, in bytes. Decoding stops there, so that a decompression bomb costs no
            more memory than a large body.

    Raises RequestError: 415 for an encoding that the server doesn't have, 413 if the result is larger than ``most``,
    400 if the body isn't encoded as the header says.

    >>> import gzip
    >>> decode_body(gzip.compress(b'{"inputs": "great film"}'), "gzip", 1000)
    b'{"inputs": "great film"}'
    """
    names = [name.strip().lower() for name in encodings.split(",") if name.strip()]
    names = [name for name in names if name != "identity"]
    if not names:
        return body
    decoders = _decoders()
    if len(names) > 1 or names[0] not in decoders:
        raise RequestError(
            415,
            f"The server can't decode the Content-Encoding {', '.join(names):.60}: send the body as it is, or with one "
            f"of {accepted()}.",
        )
    try:
        content = decoders[names[0]](body, most + 1)
    except RequestError:
        raise
    except Exception:
        # Each library has errors of its own for corrupt data.
        raise RequestError(
            400, f"The body can't be decoded as {names[0]}: encode it again, or leave Content-Encoding out."
        ) from None
    if len(content) > most:
        raise RequestError(413, f"The decoded body is larger than {most} bytes: send less at once.")
    return content


def in_utf8(body: bytes, content_type: str) -> bytes:
    """The body in UTF-8, if it isn't valid UTF-8 and its charset parameter names a Western encoding.

    JSON has no such parameter (RFC 8259, section 11), and many clients that send it send UTF-8 nevertheless, so the
    bytes decide first.

    >>> in_utf8("café".encode("latin-1"), "application/json; charset=ISO-8859-1").decode()
    'café'
    """
    _, _, parameter = content_type.lower().partition("charset=")
    codec = _CHARSETS.get(parameter.partition(";")[0].strip(" \"'"))
    if codec is None:
        return body
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode(codec, "replace").encode()
    return body


def accepted() -> str:
    """The encodings that this installation can decode, for a sentence or an Accept-Encoding header.

    >>> accepted().startswith("gzip, deflate")
    True
    """
    return ", ".join(name for name in _decoders() if name != "x-gzip")


def _decoders() -> dict[str, Decoder]:
    """By name; zstd only from Python 3.14 on, or with the package zstandard."""
    decoders: dict[str, Decoder] = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate}
    if _module("compression.zstd") or _module("zstandard"):
        decoders["zstd"] = _unzstd
    return decoders


def _gunzip(body: bytes, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    for _ in range(_MEMBERS):
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        part = member.decompress(body, most - size)
        parts.append(part)
        size += len(part)
        if size >= most:
            break
        if not member.eof:
            raise ValueError("the body ends early")
        # Zeros may pad the last member.
        body = member.unused_data.lstrip(b"\0")
        if not body:
            break
    else:
        raise ValueError("too many members")
    return b"".join(parts)


def _inflate(body: bytes, most: int) -> bytes:
    """RFC 9110 means zlib's format by "deflate"; some clients send the raw stream, without zlib's header."""
    try:
        return _complete(zlib.decompressobj(), body, most)
    except zlib.error:
        return _complete(zlib.decompressobj(-zlib.MAX_WBITS), body, most)


def _complete(decompressor: Any, body: bytes, most: int) -> bytes:
    content: bytes = decompressor.decompress(body, most)
    if len(content) < most and not decompressor.eof:
        raise ValueError("the body ends early")
    return content


def _unzstd(body: bytes, most: int) -> bytes:
    standard = _module("compression.zstd")
    if standard is not None:
        return _complete(standard.ZstdDecompressor(), body, most)
    # A frame may ask for a window of any size: 8 MiB is what RFC 8878, section 3.1.1.1.2, expects decoders to support.
    with _module("zstandard").ZstdDecompressor(max_window_size=2**23).stream_reader(body) as reader:
        content: bytes = reader.read(most)
    return content


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
