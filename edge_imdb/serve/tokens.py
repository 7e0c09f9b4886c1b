"""ENDPOINTS: /tokenize and /decode of text-embeddings-inference (TEI), which work with the tokenizer of any task."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from typing import Any

from ..tasks.http import (
    Description,
    Endpoint,
    Request,
    RequestError,
    RequestLimits,
    encodable,
    flag,
    json_object,
    kind_of,
    list_of,
    refuse,
    refuse_empty,
    shown,
    text_schema,
    texts_of,
    texts_schema,
)
from .unlocked import Unlocked

# The name of this work in the queue and in the metrics.
QUEUE = "tokenizer"
# The seconds that a text takes, before the first one is measured.
SECONDS = 0.001
# About the mean length of IMDb's reviews, in characters.
_MEAN = 1300


def tokenize(body: bytes, model: Any, limits: RequestLimits) -> Request:
    """``{"inputs": str | [str], "add_special_tokens"}``; the answer has a list of tokens for each text.

    A token is ``{"id", "text", "special", "start", "stop"}``. As in TEI, ``start`` and ``stop`` count bytes of the
    text in UTF-8, and are null for a special token. The text is neither cleaned nor cut.
    """
    record = json_object(body)
    texts, _ = texts_of(record, limits)
    special = flag(record, "add_special_tokens", True)
    for text in texts:
        if not text:
            refuse_empty("inputs has a text without characters: leave it out.")
        if not encodable(text):
            refuse("inputs has half of a surrogate pair, which is not a character: leave it out.", "Tokenizer")
    tokenizer = Unlocked(model._model.tokenizer)
    calls = [partial(_tokens, tokenizer, text, special) for text in texts]
    return Request(calls, _weight(map(len, texts)), list)


def decode(body: bytes, model: Any, limits: RequestLimits) -> Request:
    """``{"ids": [int] | [[int]], "skip_special_tokens"}``; the answer has a text for each list of ids."""
    record = json_object(body)
    ids = record.get("ids")
    if not isinstance(ids, list):
        refuse(f"ids is {kind_of(ids)}: it must be a list of token ids, or a list of such lists.")
    rows = ids if ids and all(isinstance(row, list) for row in ids) else [ids]
    if not all(rows):
        refuse_empty("ids is empty: give at least one token id.")
    longest = max(map(len, rows))
    if len(rows) > limits.max_texts:
        raise RequestError(413, f"ids has {len(rows)} lists: {limits.max_texts} is the most in one request.")
    if longest > limits.max_characters:
        raise RequestError(413, f"ids has a list of {longest} ids: {limits.max_characters} is the most.")
    tokenizer = model._model.tokenizer
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    for token in (token for row in rows for token in row):
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < size:
            refuse(f"ids has {shown(token)}: each must be a whole number from 0 to {size - 1}.", "Tokenizer")
    skip = flag(record, "skip_special_tokens", True)
    calls = [partial(tokenizer.decode, row, skip_special_tokens=skip) for row in rows]
    return Request(calls, _weight(map(len, rows)), list)


def _tokens(tokenizer: Any, text: str, special: bool) -> list[dict[str, Any]]:
    encoding = tokenizer.encode(text, add_special_tokens=special)
    # The number of bytes before each character, since tokenizers counts characters.
    before = range(len(text) + 1) if text.isascii() else [0, *accumulate(len(character.encode()) for character in text)]
    tokens = []
    for index, token, is_special, (start, stop) in zip(
        encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
    ):
        span = (token, None, None) if is_special else (text[start:stop], before[start], before[stop])
        tokens.append({"id": index, "text": span[0], "special": bool(is_special), "start": span[1], "stop": span[2]})
    return tokens


def _weight(lengths: Iterable[int]) -> float:
    """The work of texts of these lengths, in texts of mean length. A short text counts as one."""
    return sum(max(1.0, length / _MEAN) for length in lengths)


def _describe_tokenize(limits: RequestLimits) -> Description:
    token = {
        "type": "object",
        "required": ["id", "text", "special", "start", "stop"],
        "properties": {
            "id": {"type": "integer"},
            "text": {"type": "string"},
            "special": {"type": "boolean"},
            "start": {"type": ["integer", "null"]},
            "stop": {"type": ["integer", "null"]},
        },
    }
    return Description(
        {
            "inputs": texts_schema(text_schema(limits), limits),
            "add_special_tokens": {"type": ["boolean", "null"], "default": True},
        },
        list_of(list_of(token)),
        {"inputs": "great film"},
    )


def _describe_decode(limits: RequestLimits) -> Description:
    row = {
        "type": "array",
        "minItems": 1,
        "maxItems": limits.max_characters,
        "items": {"type": "integer", "minimum": 0},
    }
    rows = {"type": "array", "minItems": 1, "maxItems": limits.max_texts, "items": row}
    return Description(
        {"ids": {"oneOf": [row, rows]}, "skip_special_tokens": {"type": ["boolean", "null"], "default": True}},
        list_of({"type": "string"}),
        {"ids": [101, 2307, 2143, 102]},
        "ids",
    )


ENDPOINTS = (
    Endpoint("/tokenize", "text-embeddings-inference API: the tokens of texts", tokenize, _describe_tokenize, QUEUE),
    Endpoint("/decode", "text-embeddings-inference API: the texts of token ids", decode, _describe_decode, QUEUE),
)
