"""Unlocked: a tokenizer that lets other threads run while it encodes."""

from __future__ import annotations

import os
from typing import Any


class Unlocked:
    """``tokenizer`` with an ``encode`` that releases Python's lock (the GIL).

    The library holds the lock during ``encode``: for 90 ms if a text has 100,000 characters. Meanwhile the server
    could neither answer /health nor start the next text on another core. ``encode_batch`` releases the lock, but would
    start threads of its own, so those are turned off for this process.
    """

    def __init__(self, tokenizer: Any) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        """The encoding of one text."""
        return self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)
