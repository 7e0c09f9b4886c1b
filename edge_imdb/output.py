"""locked, staging, publish, whole_file: one writer at a time, and folders and files that appear whole or not at all.

On Linux and macOS, a folder replaces another in one step. Windows has no such step, and doesn't rename or remove files
that are open: there, a folder is replaced in two steps, which the next writer undoes if only the first was taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux's renameat2
_RENAME_SWAP = 2  # macOS's renamex_np
# How often, and after how many seconds each, to try again to replace a file that another program has open on Windows.
_TRIES, _PAUSE = 20, 0.05


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes from writing ``target``, and clean up after a killed process.

    Raises OutputError if another process is writing it, or if the parent folder can't be written.
    """
    # Imported here, because only some extras install it.
    import filelock

    path = target.with_name(f".{target.name}.lock")
    lock = filelock.FileLock(path, timeout=0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise OutputError(
            f"Another process is writing {target}: wait until it is done, or choose another folder."
        ) from None
    except OSError as error:
        raise OutputError(f"{target.parent} can't be written ({error.strerror}): choose another folder.") from None
    try:
        _sweep(target)
        yield
    finally:
        # Remove the file while the lock is held: filelock notices if the file that it has locked is gone, and makes a
        # new one. Windows refuses to remove an open file. There it is removed after the release, which Windows refuses
        # too if another process has locked it in between.
        refused = False
        try:
            path.unlink(missing_ok=True)
        except OSError:
            refused = True
        lock.release()
        if refused:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove temporary siblings of ``target``. First undo a replacement in two steps that was killed in the middle."""
    pattern = re.compile(rf"\.{re.escape(target.name)}(\.partial)?(\.old)?\.[a-z0-9_]{{8}}")
    for path in list(target.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            if match[2] and not target.exists() and (path / target.name).is_dir():
                (path / target.name).rename(target)
            shutil.rmtree(path, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder if it exists. For other processes it disappears in one step.

    Raises OSError, with the folder as it was, if the system refuses; Windows does while a file in it is open.
    """
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            folder.rename(aside / "discarded")
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of the file ``path`` that becomes ``path`` when the block ends without an error.

    The content is flushed to the disk before the file is renamed, and the new name before this returns. The temporary
    name is always the same, so the next writer overwrites what a killed writer left.
    Raises OutputError if the disk is full or can't be written; ``path`` is then unchanged.

    >>> path = Path(tempfile.mkdtemp(), "labels.txt")
    >>> with whole_file(path) as temporary:
    ...     _ = temporary.write_text("pos")
    >>> path.read_text()
    'pos'
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            yield temporary
            _flush(temporary)
            _replace(temporary, path)
            _flush(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OutputError(f"{path} can't be written ({error.strerror}): nothing there was changed.") from error


def _replace(source: Path, target: Path) -> None:
    """Rename a file to ``target``. On Windows, wait up to a second while another program has ``target`` open."""
    for _ in range(_TRIES if os.name == "nt" else 0):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(_PAUSE)
        else:
            return
    source.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, with the same line ends on every system. Raises OutputError.

    >>> path = Path(tempfile.mkdtemp(), "labels.txt")
    >>> write_text(path, "pos")
    >>> path.read_text()
    'pos'
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def check_free(target: Path, overwrite: bool, what: str, marker: str) -> None:
    """Raise OutputError if the folder ``target`` can't be created, or contains something that would be lost.

    With ``overwrite``, a folder that contains the file ``marker`` may be replaced, because we wrote it. Any other
    folder that isn't empty is refused. ``what`` names the content in the message, such as "bundle".

    >>> check_free(Path(tempfile.mkdtemp()), False, "bundle", "edge.json")
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is not a folder: choose another folder for the {what}.")
    if target.is_dir() and any(target.iterdir()):
        if not (target / marker).is_file():
            raise OutputError(f"{target} contains files that are not a {what}: choose another folder.")
        if not overwrite:
            raise OutputError(
                f"{target} already contains a {what}: use --overwrite to replace it, or choose another folder."
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputError(f"{target.parent} can't be written ({error.strerror}): choose another folder.") from None


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A temporary sibling of the folder ``target`` that becomes ``target`` when the block ends without an error.

    If anything goes wrong, ``target`` stays as it was. The block must close the files that it opens in the folder,
    because Windows can't rename a folder with open files. Raises OutputError if the disk is full or can't be written.

    >>> target = Path(tempfile.mkdtemp(), "site")
    >>> with staging(target) as folder:
    ...     _ = (folder / "index.html").write_text("<p>")
    >>> [path.name for path in target.iterdir()]
    ['index.html']
    """
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary.chmod(0o777 & ~_umask())
        try:
            yield temporary
            publish(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        # A library that the caller's block uses may raise an OSError without a number for reasons of its own.
        if error.errno is None:
            raise
        hint = " Close the programs that have files of it open." if os.name == "nt" else ""
        raise OutputError(f"{target} can't be written ({error.strerror}): nothing there was changed.{hint}") from error


def publish(source: Path, target: Path) -> None:
    """Flush the folder ``source`` to disk and rename it to ``target``. An older ``target`` is removed after the swap.

    Raises OSError, with ``target`` as it was, if the system refuses a step.

    >>> parent = Path(tempfile.mkdtemp())
    >>> (parent / "new").mkdir()
    >>> publish(parent / "new", parent / "site")
    >>> [path.name for path in parent.iterdir()]
    ['site']
    """
    for folder, _, names in os.walk(source):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        try:
            target.rename(old / target.name)
            try:
                source.rename(target)
            except BaseException:
                (old / target.name).rename(target)
                raise
        except BaseException:
            # Empty unless the target couldn't be moved back; then the next writer does it.
            with contextlib.suppress(OSError):
                old.rmdir()
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        shutil.rmtree(source, ignore_errors=True)
    _flush(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Flush to disk which files and folders ``folder`` contains. Windows does that by itself.

    >>> sync_folder(Path(tempfile.mkdtemp()))
    """
    _flush(folder)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        # Windows opens no folders, and flushes their changes with those of their files.
        return
    if windows and not os.access(path, os.W_OK):
        path.chmod(stat.S_IREAD | stat.S_IWRITE)
    # Windows flushes only files that are open for writing. Elsewhere, reading is enough and works for read-only files.
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(fcntl, "F_FULLFSYNC"):
            # On macOS, fsync leaves the data in the cache of the drive. Some file systems can't do more than that.
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, by Linux's renameat2 or macOS's renamex_np. False if the system can't."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform.startswith("linux"):
            rename = ctypes.CDLL(None, use_errno=True).renameat2
            result = rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
        elif sys.platform == "darwin":
            result = ctypes.CDLL(None, use_errno=True).renamex_np(*names, ctypes.c_uint(_RENAME_SWAP))
        else:
            return False
    except (OSError, AttributeError):
        # An older system, whose C library doesn't have the function.
        return False
    return bool(result == 0)
