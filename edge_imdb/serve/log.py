"""Log: one JSON object per line on standard error, without reviews, queries, keys or headers."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


class Log:
    """Writes lines such as ``{"time": "...", "event": "request", "path": "/predict", "status": 200, "ms": 9.1}``."""

    def __call__(self, event: str, **values: Any) -> None:
        """Write one line, with the time in UTC."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **values})
        # The server goes on if the log's reader is gone or the disk is full.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def failure(self, path: str, error: BaseException) -> None:
        """Write the type of an exception and where it was raised. Its message is left out, as it may quote a review."""
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        where = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
        self("failure", path=path, error=type(error).__name__, where=where)


class Forward(logging.Handler):
    """Writes uvicorn's own warnings to our log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._log.failure("uvicorn", record.exc_info[1])
        else:
            self._log("uvicorn", level=record.levelname.lower(), message=record.getMessage())
