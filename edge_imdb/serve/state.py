"""State: the models, the queue, the limits and the phase of a running server, which its parts share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .limits import Limits
from .log import Log
from .metrics import Metrics
from .work import Work


@dataclass
class State:
    """Starts without models and queue. ``run`` adds them, and sets ``stopping`` and ``draining``."""

    tasks: tuple[str, ...]
    limits: Limits
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    # The open models by task.
    models: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    # ``stopping`` is set at the first signal: /health answers 503. ``draining`` is set a moment later: every new
    # request gets 503.
    stopping: bool = False
    draining: bool = False
    # The number of requests in flight, and the bytes of the bodies that they have in memory.
    active: int = 0
    buffered: int = 0

    @property
    def ready(self) -> bool:
        return self.work is not None
