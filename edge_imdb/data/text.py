"""clean, is_blank, ReviewEncoder: how a review becomes token ids, at training and at run time alike."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..errors import BlankError, InputError, UsageError
from . import emoji

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# The number of tokens that a BERT tokenizer adds to a text: [CLS] and [SEP].
SPECIAL = 2
_BREAK = re.compile(r"<\s*/?\s*br\s*/?\s*>", re.IGNORECASE)
# Only entities that end in ";", because html.unescape also replaces the "&not" in "why&not".
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Unicode's categories Cc (control characters) and Cs (lone surrogates, which no tokenizer accepts).
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_VISIBLE = re.compile(r"[^\W_]")

# Safe split points, for texts of megabytes: after these characters, and between a word and white space. There, a BERT
# tokenizer ends a word, and no break tag, entity, emoji or star rating that `clean` replaces continues.
_MARK = re.compile("[.,!?()*\"':+=%@$^~|{}_`\\\\\\-\u3001\u3002\uff01\uff0c\uff1f\u3400-\u4dbf\u4e00-\u9fff]")
_GAP = re.compile(r"\s(?:(?<=[^\s</>rR;]\s)|(?<=[^bB;][rR]\s))")
# Other signs that the tokenizer makes a word of, where they can't be part of a break tag, an entity or "[MASK]".
_SIGN = re.compile(
    r"[\]#;&/<>\[](?:(?<=\])|(?<=\[)(?=[#;/<&\[])|(?<=[^&]#)|(?<=[^A-Za-z0-9];)|(?<=&)(?=[^#A-Za-z])"
    r"|(?<=&amp;)|(?<=&quot;)|(?<=&apos;)|(?<=&#39;)|(?<=//)"
    r"|(?<=<)(?=<<)|(?<=>>)|(?<=&lt;)(?=&lt;)|(?<=&gt;&gt;))"
)
# Before an emoji or a row of stars, unless it is part of a longer sequence.
_PICTURE = re.compile(emoji.START)
# A letter or digit other than a Chinese character, because a BERT tokenizer makes a word of each Chinese character.
# "½" isn't here because it may be part of a star rating.
_PLAIN = "[^\\W_\u00bd\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
# Long runs of these give the same tokens as somewhat shorter runs: white space, control characters, dropped characters,
# combining marks, pictographs that are neither in the vocabulary nor spelled out, and stars.
_MANY = [r"\s", "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]", "[\xad\ufeff\u200b-\u200f\u202a-\u202e\u2060-\u2063]"]
_MANY += ["[\u0300-\u036f]", f"(?:(?![{emoji.CHARACTERS}])[\U0001f300-\U0001f64f])", emoji.STAR]
# Characters that every version of the tokenizer drops.
_DROPPED = dict.fromkeys(
    chain([0xAD, 0xFEFF], range(0x200B, 0x2010), range(0x202A, 0x202F), range(0x2060, 0x2064), range(0x300, 0x370))
)
# The number of characters to tokenise at a time, because the tokenizer needs 150 bytes for each.
_PIECE = 1 << 15


def clean(text: str) -> str:
    """Return ``text`` without markup left over from a web page, and with emoji in words.

    ``<br />`` in all its spellings becomes a space, HTML entities become their characters, emoji and star ratings
    become words (see ``emoji.spell_out``), control characters (including NUL) and lone surrogates become spaces, and
    runs of white space become one space. May return ``""``.

    >>> clean("Great cast,<br />dull plot &amp; score 👎")
    'Great cast, dull plot & score thumbs down'
    """
    return _clean(text, "&" in text)


def _clean(text: str, entities: bool) -> str:
    """``clean`` for a text or a piece of a text; ``entities`` says whether the whole text contains a ``&``."""
    text = _BREAK.sub(" ", text)
    if entities:
        text = _BREAK.sub(" ", _ENTITY.sub(lambda match: html.unescape(match.group()), text))
    return " ".join(_CONTROL.sub(" ", emoji.spell_out(text)).split())


def is_blank(text: str) -> bool:
    """Whether a text has no tokens: it is only white space, markup, and characters that a BERT tokenizer drops.

    ``ReviewEncoder`` raises BlankError for the same texts.

    >>> is_blank("<br /> &nbsp;")
    True
    """
    text = clean(text)
    # The quick test first: a BERT tokenizer drops no letter and no digit.
    return _VISIBLE.search(text) is None and not _normalizer().normalize_str(text).strip()


@functools.cache
def _normalizer() -> Any:
    from tokenizers.normalizers import BertNormalizer

    return BertNormalizer()


def _cut(text: str, start: int, stop: int | None = None) -> int | None:
    """An index over ``start``, up to ``stop``, where a text can be split without changing any token; None if none."""
    stop = len(text) if stop is None else stop
    # Block by block, because any of these patterns may be rare in a text.
    while start < stop:
        end = min(stop, start + _PIECE)
        if (mark := _MARK.search(text, start, end)) is not None:
            return mark.end()
        if (gap := _GAP.search(text, start, end)) is not None:
            return gap.start()
        if (sign := _SIGN.search(text, start, end)) is not None:
            return sign.end()
        if (picture := _PICTURE.search(text, start + 1, end)) is not None:
            return picture.start()
        start = end
    return None


Spans = list[tuple[int, int]]


def clean_with_spans(text: str) -> tuple[str, Spans]:
    """``clean(text)``, and for each of its characters the span of ``text`` that it comes from.

    All words of an emoji have the span of that emoji.

    >>> clean_with_spans("a &amp; b")
    ('a & b', [(0, 1), (1, 2), (2, 7), (7, 8), (8, 9)])
    """
    spans = [(index, index + 1) for index in range(len(text))]
    text, spans = _substitute(_BREAK, lambda match: " ", text, spans)
    if "&" in text:
        text, spans = _substitute(_ENTITY, lambda match: html.unescape(match.group()), text, spans)
        text, spans = _substitute(_BREAK, lambda match: " ", text, spans)
    if emoji.has_emoji(text):
        text, spans = _substitute(emoji.PATTERN, emoji.words_for, text, spans)
    text = _CONTROL.sub(" ", text)
    kept: list[str] = []
    kept_spans: Spans = []
    for character, (start, end) in zip(text, spans, strict=True):
        if not character.isspace():
            kept.append(character)
            kept_spans.append((start, end))
        elif kept and kept[-1] == " ":
            kept_spans[-1] = (kept_spans[-1][0], end)
        elif kept:
            kept.append(" ")
            kept_spans.append((start, end))
    if kept and kept[-1] == " ":
        del kept[-1], kept_spans[-1]
    return "".join(kept), kept_spans


def _substitute(
    pattern: re.Pattern[str], replace: Callable[[re.Match[str]], str], text: str, spans: Spans
) -> tuple[str, Spans]:
    """``pattern.sub(replace, text)``, and the span of each character of the result."""
    parts: list[str] = []
    new_spans: Spans = []
    at = 0
    for match in pattern.finditer(text):
        new = replace(match)
        parts += [text[at : match.start()], new]
        new_spans += spans[at : match.start()]
        new_spans += [(spans[match.start()][0], spans[match.end() - 1][1])] * len(new)
        at = match.end()
    return "".join([*parts, text[at:]]), new_spans + spans[at:]


@dataclass(frozen=True)
class Truncation:
    """How to truncate a review that is longer than ``max_length`` tokens: keep its head and its tail.

    ``head_ratio`` is the head's share of the tokens that are kept. Raises UsageError for values out of range.

    Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section 5.1, where 128 tokens of head
    and 382 of tail did best on IMDb.

    >>> Truncation(max_length=6, head_ratio=0.25).cut([10, 11, 12, 13, 14, 15, 16])
    [10, 14, 15, 16]
    """

    max_length: int = 512
    head_ratio: float = 0.25

    def __post_init__(self) -> None:
        if self.max_length < 3:
            raise UsageError(
                f"max_length is {self.max_length}: it must be 3 or more, because two tokens are special ones."
            )
        if not 0 <= self.head_ratio <= 1:
            raise UsageError(f"head_ratio is {self.head_ratio}: it must be between 0 and 1.")

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
    """Turns reviews into token ids: clean, tokenise, truncate, add the special tokens.

    It turns off the truncation and the padding of ``tokenizer``, or of a copy of it if ``copy`` is true. Making the
    copy takes as long as loading the tokenizer. If ``bert`` is false, the tokenizer may add any special tokens before
    and after a text; ``special`` is their number. Raises InputError if the tokenizer isn't BERT's, or can't be used.

    >>> from edge_imdb import Sentiment
    >>> model = Sentiment()
    >>> ReviewEncoder(model.tokenizer, Truncation(max_length=8)).encode("great film")
    [101, 2307, 2143, 102]
    """

    def __init__(self, tokenizer: Tokenizer, truncation: Truncation, copy: bool = True, bert: bool = True) -> None:
        from tokenizers import Tokenizer as TokenizerClass

        self.truncation = truncation
        self._tokenizer = TokenizerClass.from_str(tokenizer.to_str()) if copy else tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if bert:
            special = self._tokenizer.encode("", add_special_tokens=True).ids
            if len(special) != SPECIAL:
                raise InputError(
                    f"The tokenizer adds {len(special)} special tokens, but a BERT tokenizer adds {SPECIAL}: "
                    "use a checkpoint with a BERT tokenizer."
                )
            self._before, self._after = special[:1], special[1:]
        else:
            self._before, self._after = _special_tokens(self._tokenizer)
        self.special = len(self._before) + len(self._after)

    def encode(self, text: str) -> list[int]:
        """Return the ids of one review. *Shape:* ``(length,)``, ``3 <= length <= max_length``.

        Raises BlankError if nothing is left of ``text`` after cleaning and tokenising.
        """
        return self.frame(self.cut(self.ends(text, self.truncation.max_length - self.special)))

    def cut(self, ids: list[int], truncation: Truncation | None = None) -> list[int]:
        """``ids`` cut to the head and the tail that ``truncation``, or the encoder's own, leaves room for."""
        return (truncation or self.truncation).cut(ids, self.special)

    def tokens(self, text: str) -> list[int]:
        """The ids of a whole review, without special tokens. Raises BlankError like ``encode``."""
        ids: list[int] = []
        start, entities = 0, "&" in text
        while start < len(text):
            stop = _cut(text, start + _PIECE) if self._divisible and len(text) - start > 2 * _PIECE else None
            stop = len(text) if stop is None else stop
            ids += self._ids(text[start:stop], entities)
            start = stop
        if not ids:
            raise BlankError("The text is blank: give a review with at least one visible character.")
        return ids

    def ends(self, text: str, count: int) -> list[int]:
        """Like ``tokens``, but only the first and the last ``count`` ids of a long review.

        Truncating the result to ``count`` ids or fewer gives the same ids as truncating all of them. The time doesn't
        grow with the length of the text, unless the text has no safe split points. Raises BlankError like ``encode``.
        """
        size = max(_PIECE // 4, 16 * count)
        if not self._divisible or len(text) <= 3 * size:
            return self.tokens(text)
        shortened, entities = False, "&" in text
        while 3 * size < len(text):
            first, last = _cut(text, size, 2 * size), _cut(text, len(text) - size)
            if first is not None and last is not None:
                head = self._ids(text[:first], entities)
                tail = self._ids(text[last:], entities)
                if len(head) >= count and len(tail) >= count:
                    return head[:count] + tail[-count:]
            if shortened:
                size *= 4
            else:
                text, shortened = self._runs.sub(self._shorten, text), True
        return self.tokens(text)

    def _ids(self, text: str, entities: bool) -> list[int]:
        """The ids of a text or of a piece of a text between two split points; ``entities`` as in ``_clean``."""
        text = _clean(text, entities)
        if self._divisible and len(text) > 4 * _PIECE:
            # The text has no safe split point.
            if self._drops:
                text = text.translate(_DROPPED)
            text = self._runs.sub(self._shorten, text)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @functools.cached_property
    def _divisible(self) -> bool:
        """Whether the tokenizer is BERT's, so that ``_cut`` knows where its words end."""
        normalizer, model = self._tokenizer.normalizer, self._tokenizer.model
        return (
            type(normalizer).__name__ == "BertNormalizer"
            and type(self._tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"
            and type(model).__name__ == "WordPiece"
            and bool(normalizer.handle_chinese_chars)
            and not any(
                _cut(token.content, 0, len(token.content) - 1)
                for token in self._tokenizer.get_added_tokens_decoder().values()
            )
        )

    @functools.cached_property
    def _drops(self) -> bool:
        normalizer = self._tokenizer.normalizer
        stripped = normalizer.strip_accents
        return bool(normalizer.clean_text and (normalizer.lowercase if stripped is None else stripped))

    @functools.cached_property
    def _runs(self) -> re.Pattern[str]:
        """Long runs of letters, which are a word too long for the vocabulary, and of the characters in ``_MANY``.

        Shortening such a run to ``_limit`` characters doesn't change the tokens.
        """
        return re.compile("|".join(f"{kind}{{{self._limit + 1},}}" for kind in (_PLAIN, *_MANY)))

    @functools.cached_property
    def _limit(self) -> int:
        return max(100, int(self._tokenizer.model.max_input_chars_per_word)) + 1

    def _shorten(self, run: re.Match[str]) -> str:
        return run.group()[: self._limit]

    def encoding(self, cleaned: str) -> Encoding:
        """The tokens of a whole, cleaned review with their offsets, without special tokens.

        Raises BlankError like ``encode``.
        """
        encoding = self._tokenizer.encode(cleaned, add_special_tokens=False)
        if not encoding.ids:
            raise BlankError("The text is blank: give a review with at least one visible character.")
        return encoding

    def frame(self, ids: list[int]) -> list[int]:
        """Put ``ids`` between the special tokens. *Shape:* ``(length,)`` to ``(length + special,)``."""
        return [*self._before, *ids, *self._after]


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer adds before and after a text. Raises InputError if it changes the text's own ids."""
    inner: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    whole: list[int] = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    raise InputError("The tokenizer changes a text when it adds special tokens: use another checkpoint.")
