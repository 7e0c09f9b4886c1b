"""Loaded: what Sentiment and FillMask share: a bundle found and checked, its tokenizer, a session on its graph."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .bundle import TOKENIZER, Bundle, find_bundle, open_bundle
from .errors import BundleError, UsageError
from .session import choose_provider, open_session

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PRECISIONS = ("auto", "int8", "fp32")
INPUTS = {"input_ids", "attention_mask"}


class Loaded:
    """A bundle of ``task``, its tokenizer and its session. Raises BundleError, ProviderError, UsageError.

    ``model`` None takes $EDGE_IMDB_MODELS/TASK, ./models/TASK, or the embedded bundle. ``precision`` ``auto`` is int8
    on a CPU and fp32 elsewhere, whichever there is.
    """

    def __init__(
        self, task: str, model: str | os.PathLike[str] | None, provider: str, threads: int | None, precision: str
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"There is no precision {precision!r}: use {', '.join(PRECISIONS)}.")
        path, self.reason = find_bundle(task, model)
        self.bundle: Bundle = open_bundle(path, task)
        if precision == "auto":
            first, second = ("int8", "fp32") if choose_provider(provider) == "cpu" else ("fp32", "int8")
            precision = first if first in self.bundle.graphs else second
        self.precision = precision
        self.tokenizer = self._read_tokenizer()
        self.session = open_session(self.bundle.graph(precision), provider, threads)
        self.output = self._check_graph()

    def _read_tokenizer(self) -> Tokenizer:
        path = self.bundle.file(TOKENIZER)
        # Imported here, so that `import edge_imdb` and `--help` stay fast.
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise BundleError(f"{path} is no tokenizer ({error}): export the bundle again.") from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _check_graph(self) -> list[Any]:
        """The shape of the output, after the names of inputs and outputs were checked."""
        outputs = self.session.get_outputs()
        if {node.name for node in self.session.get_inputs()} != INPUTS or [node.name for node in outputs] != ["logits"]:
            raise BundleError(
                f"The graph of {self.bundle.path} has other inputs or outputs than input_ids, attention_mask and "
                "logits: export the bundle again."
            )
        return list(outputs[0].shape)

    @property
    def provider(self) -> str:
        """The execution provider that the session got, as ONNX Runtime calls it."""
        return str(self.session.get_providers()[0])
