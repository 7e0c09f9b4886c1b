"""The files of a finished run, which ``train`` writes and ``export``, ``push`` and ``score`` read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The figures of the run. This file also marks the folder as a finished run.
METRICS = "metrics.json"
# The options of the run. ``--resume`` and ``export`` need them on this machine, and they contain its paths.
RECORD = "run.json"


def uploaded_files(run: Path) -> list[str]:
    """The names of all files of a finished run except its record, which contains paths of this machine."""
    return [path.name for path in sorted(run.iterdir()) if path.is_file() and path.name != RECORD]


def public_name(value: str | list[str] | None) -> Any:
    """A name to publish: a Hub id unchanged, a local path without its folders. A list gives a list."""
    if isinstance(value, list):
        return [public_name(part) for part in value]
    return Path(value).name if value and Path(value).exists() else value
