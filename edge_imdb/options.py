"""option: a field of an options dataclass, with the help text from which the command line makes a flag."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with its default, its help text and, optionally, the values it may take."""
    return field(default=default, metadata={"help": text, "choices": choices})
