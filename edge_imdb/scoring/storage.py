"""File, glob, Store: inputs and outputs on a disk, or in an object store that fsspec knows (s3://, gs://, …).

A file of a store appears whole or not at all. On a disk that takes a temporary file, fsync and rename; an object store
makes an object visible when its upload is complete, so there nothing is renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..data.tables import files_below, hidden, require
from ..errors import InputError, MissingDependencyError, OutputError, first_line, raised_by
from ..output import discard, locked, sync_folder, whole_file

# Seconds between two renewals of the lease on an object store, and the age at which a lease has expired.
_BEAT = 10.0
_BELIEVED = 60.0
_LEASE = "_writer.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """An input file. ``open`` gives its bytes, ``stamp`` something that changes with it; ``shown`` is for people."""

    name: str
    shown: str = ""

    def open(self) -> IO[bytes]:
        """Raises InputError if it can't be opened."""
        if is_url(self.name):
            with _remote(self.name):
                system, path = _system(self.name)
                opened: IO[bytes] = system.open(path, "rb", block_size=_BLOCK)
                return opened
        if not Path(self.name).exists():
            raise InputError(f"There is no file {self.name}: check the path.")
        return Path(self.name).open("rb", buffering=_BLOCK)

    def stamp(self) -> object:
        if is_url(self.name):
            with _remote(self.name):
                system, path = _system(self.name)
                system.invalidate_cache()
                info = system.info(path)
                return [info.get("size"), str(info.get("ETag") or info.get("etag") or info.get("LastModified"))]
        try:
            status = Path(self.name).stat()
        except OSError:
            return None
        return [status.st_size, status.st_mtime_ns]


def glob(name: str, say: Callable[[str], None] | None = None) -> tuple[list[File], bool]:
    """The file ``name``, or the files below the folder ``name`` in the order of their paths; and if it is a folder.

    Hidden files and folders are left out, as ``data.tables.folders.hidden`` says.
    """
    if is_url(name):
        with _remote(name):
            system, path = _system(name)
            if system.isfile(path):
                return [File(name)], False
            found = sorted(system.find(path))
            if not found:
                raise InputError(f"There is no file or folder {name}: check the address.")
            below = [each for each in found if not any(map(hidden, each[len(path) :].strip("/").split("/")))]
            return [File(system.unstrip_protocol(each)) for each in below], True
    folder = Path(name)
    if folder.is_dir():
        return [File(str(each)) for each in files_below(folder, say)], True
    if not folder.exists():
        raise InputError(f"There is no file or folder {name}: check the path.")
    return [File(name)], False


def is_url(name: str) -> bool:
    """Whether ``name`` is an address that fsspec opens.

    >>> is_url("s3://bucket/reviews.csv"), is_url("reviews.csv")
    (True, False)
    """
    return "://" in name


def same_file(name: str) -> str:
    """The same string for every name of one file: ``a.csv``, ``./a.csv`` and a link to it.

    >>> same_file("a.csv") == same_file("./a.csv")
    True
    """
    return name if is_url(name) else os.path.normcase(os.path.realpath(name))


def base_name(name: str, flavour: Any = os.path) -> str:
    r"""The last part of an address or of a path as this system writes paths.

    >>> import ntpath
    >>> base_name("s3://bucket/out.csv"), base_name("C:\\data\\out.csv", ntpath)
    ('out.csv', 'out.csv')
    """
    return name.rsplit("/", 1)[-1] if is_url(name) else str(flavour.basename(name))


def trimmed(name: str, flavour: Any = os.path) -> str:
    """``name`` without the separators at its end; the end tells that it is a folder.

    >>> trimmed("labelled/")
    'labelled'
    """
    return name.rstrip("/" if is_url(name) else "/" + (flavour.sep if flavour.sep == "\\" else ""))


def _system(name: str) -> tuple[Any, str]:
    fsspec = require("fsspec", "fsspec", f"{name.split('://')[0]}://")
    try:
        system, path = fsspec.core.url_to_fs(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name} needs another package of fsspec: {error}.") from None
    except ValueError as error:
        raise InputError(f"{name} is not in a store that fsspec knows: {error}.") from None
    return system, path.rstrip("/")


@contextlib.contextmanager
def _remote(name: str) -> Iterator[None]:
    """Turn any exception of a store's library into an InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no file or folder {name}: check the address.") from None
    except Exception as error:
        if not raised_by(error):
            raise
        reason = first_line(error)
        raise InputError(
            f"{name} can't be read ({reason}): check the address, the network and your permissions."
        ) from None


class Store:
    """A folder of files by name, for one writer at a time."""

    name: str

    def names(self) -> set[str]:
        """The names of its complete files; empty if the folder doesn't exist."""
        raise NotImplementedError

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file atomically. Raises OutputError."""
        raise NotImplementedError

    def get(self, name: str) -> bytes | None:
        """The bytes of a file; None if it doesn't exist."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder against other writers. Raises OutputError if another process holds the lock."""
        raise NotImplementedError

    def sibling(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file ``name`` that appears when the block ends without an error. Raises OutputError."""
        raise NotImplementedError

    def clear(self) -> None:
        """Remove the folder and its files."""
        raise NotImplementedError

    def remove_empty(self) -> None:
        """Remove the folder if it is empty."""


def open_store(name: str) -> Store:
    """The folder ``name`` on a disk or in an object store. It may not exist yet."""
    return _Objects(name) if is_url(name) else _Folder(Path(name))


def exists(name: str) -> str | None:
    """``"file"``, ``"folder"``, or None if nothing exists at ``name``."""
    if not is_url(name):
        local = Path(name)
        return "folder" if local.is_dir() else "file" if local.exists() or local.is_symlink() else None
    with _remote(name):
        system, path = _system(name)
        system.invalidate_cache()
        if system.isfile(path):
            return "file"
        return "folder" if system.exists(path) and system.find(path) else None


def _kept(error: OutputError) -> OutputError:
    """The error of ``whole_file`` with advice on how to continue the job."""
    return OutputError(str(error).split(":")[0] + ": finished parts are kept; fix this and run the same command again.")


class _Folder(Store):
    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)

    def names(self) -> set[str]:
        if not self.path.is_dir():
            return set()
        return {each.name for each in self.path.iterdir() if each.is_file() and not each.name.startswith(".")}

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        if not durable:
            temporary = self.path / f".{name}.tmp"
            with contextlib.suppress(OSError):
                temporary.write_bytes(data)
                temporary.replace(self.path / name)
            return
        try:
            with whole_file(self.path / name) as temporary:
                temporary.write_bytes(data)
        except OutputError as error:
            raise _kept(error) from error.__cause__

    def get(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.path / name} can't be read ({error.strerror}): check its permissions.") from None

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        with locked(self.path):
            try:
                self.path.mkdir(exist_ok=True)
                sync_folder(self.path.parent)
                for left in self.path.glob(".*.tmp"):
                    left.unlink(missing_ok=True)
                # Fail now rather than after the first part.
                with tempfile.TemporaryFile(dir=self.path):
                    pass
            except OSError as error:
                raise OutputError(
                    f"{self.path} can't be written ({error.strerror}): fix this, or choose another path."
                ) from None
            yield

    @contextlib.contextmanager
    def sibling(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with whole_file(Path(name)) as temporary, temporary.open("wb") as file:
                yield file
        except OutputError as error:
            raise _kept(error) from error.__cause__

    def clear(self) -> None:
        discard(self.path)

    def remove_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()


class _Objects(Store):
    """Objects below a prefix. The listings that fsspec caches are dropped, because another writer may add objects."""

    def __init__(self, name: str) -> None:
        self.name = name.rstrip("/")
        with _remote(name):
            self._system, self._path = _system(name)

    @contextlib.contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not raised_by(error):
                raise
            reason = first_line(error)
            raise OutputError(
                f"{what} can't be written ({reason}): finished parts are kept; fix this and run the same command again."
            ) from error

    def names(self) -> set[str]:
        with self._said(self.name):
            self._system.invalidate_cache()
            if not self._system.exists(self._path):
                return set()
            found = (path.rsplit("/", 1)[-1] for path in self._system.find(self._path, maxdepth=1))
            return {name for name in found if name and name != _LEASE}

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        with self._said(f"{self.name}/{name}"):
            self._system.pipe_file(f"{self._path}/{name}", data)

    def get(self, name: str) -> bytes | None:
        try:
            with self._said(f"{self.name}/{name}"):
                self._system.invalidate_cache()
                data: bytes = self._system.cat_file(f"{self._path}/{name}")
                return data
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def remove(self, name: str) -> None:
        with self._said(f"{self.name}/{name}"), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(f"{self._path}/{name}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold a lease: an object that only one writer can create. It is renewed every 10 s and expires after 60 s."""
        own = uuid.uuid4().hex
        stop = threading.Event()

        def lease() -> bytes:
            return json.dumps({"owner": own, "host": socket.gethostname(), "time": time.time()}).encode()

        def beat() -> None:
            while not stop.wait(_BEAT):
                with contextlib.suppress(Exception):
                    self._system.pipe_file(f"{self._path}/{_LEASE}", lease())

        with self._said(self.name):
            if not self._create(lease()):
                left = json.loads(self.get(_LEASE) or b"{}")
                if time.time() - left.get("time", 0) < _BELIEVED:
                    raise OutputError(
                        f"Another process (on {left.get('host')}) is writing {self.name}: wait until it is done (a "
                        f"minute if it was killed), or choose another path."
                    )
                self.remove(_LEASE)
                if not self._create(lease()):
                    raise OutputError(f"Another process is writing {self.name}: wait until it is done.")
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.remove(_LEASE)

    def _create(self, data: bytes) -> bool:
        """Write the lease if there is none, with a conditional put if the store has it. False if there is a lease."""
        try:
            self._system.pipe_file(f"{self._path}/{_LEASE}", data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if "PreconditionFailed" in f"{type(error).__name__} {error}" or "pre-condition" in str(error).lower():
                return False
            raise
        return True

    @contextlib.contextmanager
    def sibling(self, name: str) -> Iterator[IO[bytes]]:
        _, path = _system(name)
        with self._said(name):
            file = self._system.open(path, "wb", autocommit=False)
            try:
                yield file
            except BaseException:
                file.discard()
                raise
            file.close()
            file.commit()

    def clear(self) -> None:
        with self._said(self.name):
            if self._system.exists(self._path):
                self._system.rm(self._path, recursive=True)


@contextlib.contextmanager
def spooled(stream: IO[bytes], shown: str) -> Iterator[File]:
    """A copy of a stream on this machine's disk that can be read twice; it is removed when the block ends.

    The copy is closed before it is read, because Windows opens no file a second time. Raises OutputError if the disk is
    full.
    """
    with tempfile.TemporaryDirectory(prefix="edge-imdb-") as folder:
        path = Path(folder, "spooled")
        try:
            with path.open("wb") as copy:
                shutil.copyfileobj(stream, copy, _BLOCK)
        except OSError as error:
            raise OutputError(
                f"{shown} can't be copied to {folder} ({error.strerror}): free space there, or set TMPDIR to another "
                "folder."
            ) from None
        yield File(str(path), shown)


def is_stream(name: str) -> bool:
    """Whether a path is a pipe or a device, which can be read only once: /dev/stdin, a FIFO, ``<(…)``."""
    if is_url(name):
        return False
    try:
        mode = Path(name).stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def host() -> dict[str, Any]:
    """Host and process id, so that another process can tell whether this one is alive."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def alive(record: dict[str, Any], seconds: float) -> bool:
    """Whether the process of ``record`` (``host``) is alive; on another host, whether it wrote within ``seconds``."""
    if record.get("host") == socket.gethostname() and os.name == "posix":
        try:
            os.kill(int(record["pid"]), 0)
        except (ProcessLookupError, KeyError):
            return False
        except PermissionError:
            return True
        return True
    return bool(time.time() - record.get("time", 0) < seconds)
