"""clean(text) and ReviewEncoder: from a review to token ids, the same way at training and at run time."""

from __future__ import annotations

import html
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .errors import InputError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tokens that a BERT tokenizer adds to a text: [CLS] and [SEP].
SPECIAL = 2
_BREAK = re.compile(r"<\s*/?\s*br\s*/?\s*>", re.IGNORECASE)
# Only entities that end in ";": html.unescape also takes "&not" in "why&not" for one.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Unicode's categories Cc, control characters, and Cs, lone surrogates, which no tokenizer accepts.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def clean(text: str) -> str:
    """Return ``text`` without markup left over from a web page.

    ``<br />`` in all its spellings becomes a space, HTML entities become their characters, control characters (NUL
    among them) and lone surrogates become spaces, and runs of white space become one space. May return ``""``.
    """
    text = _BREAK.sub(" ", text)
    if "&" in text:
        text = _BREAK.sub(" ", _ENTITY.sub(lambda match: html.unescape(match.group()), text))
    return " ".join(_CONTROL.sub(" ", text).split())


@dataclass(frozen=True)
class Truncation:
    """How a review longer than ``max_length`` tokens is cut: it keeps its head and its tail.

    Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.1, where 128 tokens of head
    and 382 of tail did best on IMDb; ``head_ratio`` is the head's share of the tokens kept.
    """

    max_length: int = 512
    head_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise UsageError(f"max_length is {self.max_length}: it must be 3 or more, two special tokens included.")
        if not 0 <= self.head_ratio <= 1:
            raise UsageError(f"head_ratio is {self.head_ratio}: it must lie between 0 and 1.")

    def cut(self, ids: list[int], special: int = SPECIAL) -> list[int]:
        """Cut ``ids`` to ``max_length - special`` tokens. *Shape:* ``(length,)`` to ``(min(length, kept),)``."""
        kept = self.max_length - special
        if len(ids) <= kept:
            return ids
        head = round(kept * self.head_ratio)
        return ids[:head] + ids[len(ids) - (kept - head) :]

    def as_dict(self) -> dict[str, object]:
        return {"strategy": "head+tail", **asdict(self)}


class ReviewEncoder:
    """Turns reviews into token ids: clean, tokenise, cut to head and tail, add the special tokens.

    Its truncation and its padding are turned off in ``tokenizer``; with ``copy``, which takes as long as loading it,
    in a copy.
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, copy: bool = True) -> None:
        from tokenizers import Tokenizer as TokenizerClass

        self.truncation = truncation
        self._tokenizer = TokenizerClass.from_str(tokenizer.to_str()) if copy else tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = self._tokenizer.encode("", add_special_tokens=True).ids
        if len(special) != SPECIAL:
            raise InputError(
                f"The tokenizer adds {len(special)} special tokens where a BERT tokenizer adds {SPECIAL}; "
                "use a checkpoint with a BERT tokenizer."
            )
        self._first, self._last = special

    def encode(self, text: str) -> list[int]:
        """Return the ids of one review. *Shape:* ``(length,)``, ``3 <= length <= max_length``.

        Raises InputError where nothing is left of ``text`` after cleaning and tokenising.
        """
        return self.frame(self.truncation.cut(self.tokens(text)))

    def tokens(self, text: str) -> list[int]:
        """The ids of a whole review, without special tokens. Raises InputError as ``encode``."""
        ids: list[int] = self._tokenizer.encode(clean(text), add_special_tokens=False).ids
        if not ids:
            raise InputError("The text is blank: give a review with at least one visible character.")
        return ids

    def frame(self, ids: list[int]) -> list[int]:
        """``ids`` between the special tokens."""
        return [self._first, *ids, self._last]
