"""The task fill-mask: words for [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.behaviour import Behaviour
from ..task import Task

if TYPE_CHECKING:
    from ..http import Http
    from .pipeline import FillMask


class FillMaskTask(Task):
    """Fill-mask: a masked language model."""

    name = "fill-mask"
    pipeline_tag = "fill-mask"
    page_graph = "int8"

    def read_behaviour(self, record: dict[str, Any]) -> Behaviour:
        from .manifest import read_behaviour

        return read_behaviour(record)

    @property
    def pipeline(self) -> type[FillMask]:
        from .pipeline import FillMask

        return FillMask

    @property
    def http(self) -> Http:
        from .http import HTTP

        return HTTP


TASK = FillMaskTask()
