"""FillMaskRows: the column fills of a scored table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...options import option
from ..rows import RowOptions

if TYPE_CHECKING:
    from .pipeline import FillMask


@dataclass(frozen=True)
class FillMaskRows(RowOptions):
    """The options of ``edge-imdb score --task fill-mask``. Raises UsageError if a value is out of range.

    >>> FillMaskRows().columns
    ('fills',)
    """

    top_k: int = option(5, "Number of words for each mask, in fill-mask.", least=1)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}: it must be 1 or more.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("fills",)

    def kinds(self) -> list[Any]:
        import pyarrow

        word = pyarrow.struct([("token_str", pyarrow.string()), ("score", pyarrow.float64())])
        return [pyarrow.list_(pyarrow.list_(word))]

    def row(self, model: FillMask, text: str) -> tuple[Any, ...]:
        """For each mask, its ``top_k`` words with their scores, best first."""
        filled: list[Any] = model(text, top_k=self.top_k)
        masks = [filled] if isinstance(filled[0], dict) else filled
        return ([[{key: word[key] for key in ("token_str", "score")} for word in mask] for mask in masks],)
