"""State: what the parts of a running server share: its models, its queue, its limits, and whether it takes requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .limits import Limits
from .log import Log
from .metrics import Metrics
from .work import Work


@dataclass
class State:
    """Made empty; ``run`` fills in the models and the queue, and says when the server drains."""

    tasks: tuple[str, ...]
    limits: Limits
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    # The open models by task.
    models: dict[str, Any] = field(default_factory=dict)
    work: Work | None = None
    # From the first signal on /health says 503; soon after, new requests get it too.
    stopping: bool = False
    draining: bool = False
    # Requests that are being answered, and the bytes of bodies that they hold.
    active: int = 0
    buffered: int = 0

    @property
    def ready(self) -> bool:
        return self.work is not None
