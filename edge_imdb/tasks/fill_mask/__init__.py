"""The task fill-mask: words for [MASK]."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...runtime.behaviour import Behaviour
from ..task import VOCABULARY, Task

if TYPE_CHECKING:
    from ...runtime.bundle import Bundle
    from ..card import Card
    from ..evaluation import DataOptions, Evaluation, Progress
    from ..http import Http
    from .pipeline import FillMask
    from .rows import FillMaskRows


class FillMaskTask(Task):
    """Fill-mask: a masked language model."""

    name = "fill-mask"
    head = VOCABULARY
    pipeline_tag = "fill-mask"
    train_options = "edge_imdb.train.options:FillMaskOptions"
    train = "edge_imdb.train.fill_mask:train_fill_mask"
    train_help = """Adapt a masked language model to film reviews.

    The finished run is a folder that is ready for the Hub, OUTPUT/fill-mask.

    \b
    edge-imdb train fill-mask
    edge-imdb train fill-mask --unsupervised --precision auto
    edge-imdb train fill-mask --resume
    """
    exporter = "edge_imdb.export.fill_mask:FillMaskExporter"
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

    @property
    def card(self) -> Card:
        from .card import CARD

        return CARD

    @property
    def evaluate(self) -> Callable[[Any, DataOptions, int, Progress], Evaluation]:
        from .evaluation import evaluate

        return evaluate

    def reads(self, bundle: Bundle) -> str:
        return f"{bundle.truncation.max_length} tokens at a time: in a longer text, the parts around its masks"

    @property
    def rows(self) -> type[FillMaskRows]:
        from .rows import FillMaskRows

        return FillMaskRows


TASK = FillMaskTask()
