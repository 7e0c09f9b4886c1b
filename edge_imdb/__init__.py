"""edge-imdb: label the sentiment of film reviews and fill in masked words, on small devices.

``Sentiment`` and ``FillMask`` are the runtime, ``score`` labels whole data sets; errors are ``EdgeImdbError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import EdgeImdbError

if TYPE_CHECKING:
    from .fill_mask import FillMask
    from .scoring import score
    from .sentiment import Sentiment

__version__ = "0.1.0"
__all__ = ["EdgeImdbError", "FillMask", "Sentiment", "__version__", "score"]


def __getattr__(name: str) -> Any:
    # Imported only when used, so that `import edge_imdb` alone loads neither NumPy nor a runtime.
    if name == "Sentiment":
        from .sentiment import Sentiment

        return Sentiment
    if name == "FillMask":
        from .fill_mask import FillMask

        return FillMask
    if name == "score":
        from .scoring import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
