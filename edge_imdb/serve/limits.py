"""Limits of what a client, and all clients together, may use. The command has an option for every limit."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import UsageError


def _limit(default: float, help: str, least: float = 1) -> Any:
    return field(default=default, metadata={"help": help, "smallest": least})


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes or characters, and times in seconds. Raises UsageError if a limit is too small.

    >>> Limits(max_texts=8).max_texts
    8
    """

    max_body: int = _limit(
        2_000_000, "Largest request body in bytes, also after its Content-Encoding, and largest answer in characters."
    )
    max_characters: int = _limit(100_000, "Longest text, in characters.")
    max_texts: int = _limit(32, "Most texts in one request.")
    max_masks: int = _limit(32, "Most masks in one text.")
    max_wait: float = _limit(
        5.0, "Longest wait in the queue, in seconds; a request that would wait longer gets 429.", 0.01
    )
    max_headers: int = _limit(32_768, "Largest request headers, in bytes.", 256)
    header_timeout: float = _limit(10.0, "Seconds within which the headers of a request must arrive.", 0.1)
    body_timeout: float = _limit(10.0, "Seconds within which the body of a request must arrive.", 0.1)
    keep_alive: float = _limit(75.0, "Seconds after which an idle connection is closed.", 0.1)
    max_connections: int = _limit(1_000, "Most connections open at the same time.")
    drain: float = _limit(30.0, "Seconds that the requests in flight get to finish after SIGTERM.", 0)

    def __post_init__(self) -> None:
        for limit in fields(self):
            value, least = getattr(self, limit.name), limit.metadata["smallest"]
            # Not ``value < least``, which is false for NaN.
            if not value >= least:
                raise UsageError(f"--{limit.name.replace('_', '-')} is {value}: it must be {least:g} or more.")
