"""Unlocked: a tokenizer that lets other threads run while it encodes."""

from __future__ import annotations

import os
from typing import Any


class Unlocked:
    """``tokenizer`` with another ``encode``.

    tokenizers holds Python's lock in ``encode``, 90 ms for a text of 100,000 characters, in which the server could
    neither answer /health nor start the next text on another core; in ``encode_batch`` it doesn't. That one would start
    threads of its own, so they are turned off for this process.
    """

    def __init__(self, tokenizer: Any) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        """The encoding of one text."""
        return self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
