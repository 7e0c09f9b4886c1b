"""edge-imdb: label the sentiment of film reviews and fill in masked words, on small devices.

``Sentiment`` and ``FillMask`` are the runtime, ``score`` labels whole data sets; errors are ``EdgeImdbError``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import EdgeImdbError

if TYPE_CHECKING:
    from .scoring import score
    from .tasks.fill_mask.pipeline import FillMask
    from .tasks.sentiment.pipeline import Sentiment

__version__ = "0.1.0"
__all__ = ["EdgeImdbError", "FillMask", "Sentiment", "__version__", "score"]

# In a clone the folders of edge_imdb.train and edge_imdb.export stand beside this one. Python prefers the clone to what
# is installed when it is started there, as by `accelerate launch -m edge_imdb train`.
_ROOT = Path(__file__).parent.parent
if not (Path(__file__).parent / "train").exists() and (_ROOT / "train" / "options.py").exists():
    __path__.append(str(_ROOT))

# Gives the runtime the registry of tasks. It imports no task.
from . import tasks as tasks  # noqa: E402


def __getattr__(name: str) -> Any:
    # Imported only when used, so that `import edge_imdb` alone loads neither NumPy nor a runtime.
    if name == "Sentiment":
        from .tasks.sentiment.pipeline import Sentiment

        return Sentiment
    if name == "FillMask":
        from .tasks.fill_mask.pipeline import FillMask

        return FillMask
    if name == "score":
        from .scoring import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
