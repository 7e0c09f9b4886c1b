"""decompressed, read_errors: the bytes of a file with or without compression, and what damaged files raise."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Any

from ...errors import EdgeImdbError, InputError, MissingDependencyError, first_line
from .kinds import FORMAT_NAMES, require

# Small enough that a progress bar moves.
BLOCK = 1 << 14


class _Zstandard(io.RawIOBase):
    """Decompression by the package zstandard, whose own reader doesn't report that a file is truncated."""

    def __init__(self, file: IO[bytes], package: Any) -> None:
        self._file, self._package = file, package
        self._frame = package.ZstdDecompressor().decompressobj()
        self._started, self._left, self._position = False, b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._position == len(self._left):
            # A file may have several frames, one after another.
            data = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._started = self._package.ZstdDecompressor().decompressobj(), False
            data = data or self._file.read(BLOCK)
            if not data:
                if self._started:
                    raise EOFError("it ends too soon")
                return 0
            self._started = True
            self._left, self._position = self._frame.decompress(data), 0
        part = self._left[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Arrow(io.RawIOBase):
    """Decompression by pyarrow, for those who installed the extra ``score`` alone."""

    def __init__(self, file: IO[bytes], pyarrow: Any) -> None:
        self._file, self._stream = file, pyarrow.CompressedInputStream(file, "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def decompressed(file: IO[bytes], compression: str | None) -> IO[bytes]:
    """A buffered stream of what ``file`` holds; ``compression`` is ``gzip``, ``zstd`` or None.

    Raises MissingDependencyError if no package that reads zstd is installed.

    >>> decompressed(io.BytesIO(gzip.compress(b"great")), "gzip").read()
    b'great'
    """
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if compression == "zstd":
        return io.BufferedReader(_zstd(file), BLOCK)
    return file if hasattr(file, "peek") else io.BufferedReader(file, BLOCK)  # type: ignore[type-var,return-value]


def _zstd(file: IO[bytes]) -> Any:
    try:
        return importlib.import_module("compression.zstd").ZstdFile(file)
    except ImportError:
        pass
    try:
        return _Zstandard(file, require("zstandard", "zstandard", "Reading .zst"))
    except MissingDependencyError:
        with contextlib.suppress(MissingDependencyError):
            return _Arrow(file, require("pyarrow", "pyarrow", "Reading .zst"))
        raise


def _damage() -> tuple[type[Exception], ...]:
    """The exceptions that reading a damaged file raises."""
    errors: list[type[Exception]] = [EOFError, gzip.BadGzipFile, zlib.error, OSError, ValueError]
    for name in ("compression.zstd", "zstandard"):
        if (module := sys.modules.get(name)) is not None:
            errors.append(module.ZstdError)
    return tuple(errors)


@contextlib.contextmanager
def read_errors(name: str, kind: str, compression: str | None) -> Iterator[None]:
    """Turn what libraries raise while they read the file ``name`` into an InputError.

    >>> with read_errors("reviews.csv.gz", "csv", "gzip"):
    ...     gzip.decompress(b"great")
    Traceback (most recent call last):
    ...
    edge_imdb.errors.InputError: reviews.csv.gz is damaged or not a gzip file (Not a gzipped file (b'gr')): copy it again.
    """  # noqa: E501
    try:
        yield
    except EdgeImdbError:
        # Some are a ValueError too.
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not valid {error.encoding.upper()} ({error.reason}): save it as UTF-8.") from None
    except _damage() as error:
        reason = first_line(error)
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name} can't be read ({error.strerror}): check its path and permissions.") from None
        if compression:
            raise InputError(f"{name} is damaged or not a {compression} file ({reason}): copy it again.") from None
        raise InputError(
            f"{name} is not a readable {FORMAT_NAMES[kind]} file to its end ({reason}): it may be truncated; copy it "
            "again."
        ) from None
