"""watch: log every step by which this process changes a folder, and kill the process just before a chosen step.

A step is an open for writing, an fsync, a rename, an exchange of two folders, a mkdir or a removal. A kill between two
steps leaves the folder as a kill just before the second one does, so killing at every step covers every moment that
Python can see. What a C or Rust library writes by itself shows up as the fsync and the rename that follow.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

# Audit events by which a folder changes: how many paths each has, and where the folder descriptors follow, if any.
_EVENTS = {"os.rename": (2, 2), "os.remove": (1, 1), "os.mkdir": (1, 2), "os.rmdir": (1, 1), "os.link": (2, 2)}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch(folder: str, kill_at: int | str | None, written: str) -> None:
    """Log the steps below ``folder`` to the file ``written``; with ``kill_at``, die before that step.

    It is the number of a step, from 0, or a part of its line in the log: then the first such step.
    """
    root = os.path.realpath(folder)
    log = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = 0

    def step(kind: str, *paths: Any) -> None:
        nonlocal count
        names = [os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in paths]
        if not any((name + os.sep).startswith(root + os.sep) for name in names):
            return
        line = f"{kind} {' -> '.join(name[len(root) + 1 :] for name in names)}"
        if count == kill_at or (isinstance(kill_at, str) and kill_at in line):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(log, f"{line}\n".encode())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes, os.PathLike)) and isinstance(flags, int) and flags & _WRITING:
                step("open", os.fsdecode(path))
        elif event in _EVENTS:
            number, after = _EVENTS[event]
            folders = [*arguments[after : after + number], -1, -1]
            paths = [_absolute(path, folder) for path, folder in zip(arguments[:number], folders, strict=False)]
            step(event.removeprefix("os."), *paths)

    sys.addaudithook(hook)
    real = os.fsync

    def fsync(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        step("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real(file)

    os.fsync = fsync
    from edge_imdb import output

    exchange = output._exchange

    def counted(one: Any, other: Any) -> bool:
        step("exchange", os.fsdecode(one), os.fsdecode(other))
        return exchange(one, other)

    output._exchange = counted


def _absolute(path: Any, folder: Any) -> str:
    """A path that may be relative to an open folder, as in ``shutil.rmtree``."""
    name = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
    return os.path.abspath(name)
