"""option: a field of an options dataclass, with the help text from which the command line makes a flag."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(
    default: Any,
    text: str,
    choices: tuple[str, ...] | None = None,
    *,
    least: float | None = None,
    most: float | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field with its default and its help text.

    Optional are the values that it may take, the range of a number, and the placeholder of its value in the help.

    >>> from dataclasses import dataclass, fields
    >>> @dataclass
    ... class Options:
    ...     workers: int = option(1, "Number of texts at a time.", least=1)
    >>> Options().workers, fields(Options)[0].metadata["least"]
    (1, 1)
    """
    return field(
        default=default,
        metadata={"help": text, "choices": choices, "least": least, "most": most, "metavar": metavar},
    )
