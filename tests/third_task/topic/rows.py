from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_imdb.options import option
from edge_imdb.tasks.rows import RowOptions


@dataclass(frozen=True)
class TopicRows(RowOptions):
    digits: int = option(2, "Decimal digits of the score of a topic.", least=0)

    counted = 0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("topic", "certainty")

    def kinds(self) -> list[Any]:
        import pyarrow

        return [pyarrow.string(), pyarrow.float64()]

    def row(self, model: Any, text: str) -> tuple[Any, ...]:
        best = model(text)[0]
        return best["label"], round(best["score"], self.digits)
