"""locked, staging, publish, whole_file: one writer at a time, and folders and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other processes from writing ``target``, and remove what a killed process left beside it.

    Raises OutputError if another process is writing it, or if the parent folder can't be written.
    """
    # Imported here, because only the extras train and export install it.
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
        # Removed while the lock is held. A process that has opened the file meanwhile finds it gone and makes a new
        # one.
        path.unlink(missing_ok=True)
        lock.release()


def _sweep(target: Path) -> None:
    """Remove temporary siblings of ``target``. If ``target`` was moved into one (not on Linux), move it back first."""
    left = re.compile(rf"\.{re.escape(target.name)}(\.partial)?(\.old)?\.[a-z0-9_]{{8}}")
    for path in list(target.parent.iterdir()):
        if left.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            if not target.exists() and (path / target.name).is_dir():
                (path / target.name).rename(target)
            shutil.rmtree(path, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder if it exists. For other processes it disappears in one step."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        folder.rename(aside / "discarded")
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling of the file ``path`` that becomes ``path`` when the block ends without an error.

    It is on the disk before it gets its name, and the name is on the disk when this returns. Its own name doesn't
    change from one try to the next, so what a killed writer left is written over.
    Raises OutputError if the disk is full or can't be written; ``path`` is then what it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OutputError(f"{path} can't be written ({error.strerror}): nothing there was changed.") from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OutputError as ``whole_file`` does."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_free(target: Path, overwrite: bool, what: str, marker: str) -> None:
    """Raise OutputError if ``target`` can't be made, or holds something that would be lost.

    With ``overwrite`` a folder that contains the file ``marker``, so one that we wrote, may be replaced. Any other
    folder never is.
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
    """A temporary sibling of ``target`` that becomes ``target`` when the block ends without an error.

    If anything goes wrong, ``target`` stays as it was. Raises OutputError if the disk is full or can't be written.
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
        raise OutputError(f"{target} can't be written ({error.strerror}): nothing there was changed.") from error


def publish(source: Path, target: Path) -> None:
    """Flush ``source`` to disk and rename it to ``target``; what was there is removed after the swap."""
    for folder, _, names in os.walk(source):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))
    if not target.exists():
        source.rename(target)
    elif not _exchange(source, target):
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(old / target.name)
        source.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        shutil.rmtree(source, ignore_errors=True)
    _flush(target.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in ``folder`` as they are now."""
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (Linux's renameat2). False if the system can't."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    result = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(result == 0)
