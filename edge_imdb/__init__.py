"""edge-imdb: sentiment of film reviews, and words for [MASK], on small devices.

``Sentiment`` and ``FillMask`` are the runtime; errors are ``EdgeImdbError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import EdgeImdbError

if TYPE_CHECKING:
    from .fill_mask import FillMask
    from .sentiment import Sentiment

__version__ = "0.1.0"
__all__ = ["EdgeImdbError", "FillMask", "Sentiment", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, so that `import edge_imdb` alone loads neither NumPy nor a runtime.
    if name == "Sentiment":
        from .sentiment import Sentiment

        return Sentiment
    if name == "FillMask":
        from .fill_mask import FillMask

        return FillMask
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
