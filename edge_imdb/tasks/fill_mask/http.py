"""HTTP: the endpoint of fill-mask, as Hugging Face's inference API has it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from ...data.text import clean
from ...errors import UsageError
from ...runtime.bundle import Bundle
from ..http import (
    Description,
    Endpoint,
    Http,
    Request,
    RequestError,
    RequestLimits,
    encodable,
    first,
    json_object,
    list_of,
    parameters_of,
    parameters_schema,
    positive,
    refuse,
    text_schema,
    texts_of,
    texts_schema,
)
from .pipeline import MASK, FillMask

TOP_K = 5
# English that fills the 512 tokens which the model reads at once has about 2,000 characters. A longer text whose masks
# are far apart needs a run for each group of them.
_WINDOW = 1500
# Characters of targets that are tokenised before the request is queued.
_TARGETS = 10_000
_MASKED = "The cast was good, and so was the script, but the [MASK] was dull."


def fill_mask(body: bytes, model: FillMask, limits: RequestLimits) -> Request:
    """``{"inputs": str | [str], "parameters": {"top_k", "targets"}}``; the answer is that of FillMask.

    An empty list of targets is the same as none.
    """
    record = json_object(body)
    texts, single = texts_of(record, limits)
    parameters, warning = parameters_of(record, ("top_k", "targets"))
    top_k = positive(parameters, "top_k") or TOP_K
    targets = parameters.get("targets")
    if targets == []:
        targets = None
    if targets is not None:
        targets = [targets] if isinstance(targets, str) else targets
        if not isinstance(targets, list) or not all(isinstance(word, str) for word in targets):
            refuse('targets must be a list of words, as in "targets": ["good", "bad"].')
        if any(not encodable(word) for word in targets):
            refuse(
                "targets has a word with half of a surrogate pair, which is not a character: leave it out.", "Tokenizer"
            )
        top_k = min(top_k, len(targets))
        warning = "; ".join(filter(None, [warning, _target_notes(model, targets)])) or None
    weight, size = 0, 0
    for text in texts:
        masks = clean(text).count(MASK)
        if masks > limits.max_masks:
            raise RequestError(
                413, f"A text has {masks} masks: {limits.max_masks} is the most that this server fills in one text."
            )
        weight += max(1, min(masks, math.ceil(len(text) / _WINDOW)))
        # Each word comes with the whole text that it was filled into.
        size += masks * top_k * len(text)
    if size > limits.max_body:
        raise RequestError(
            413,
            f"The answer would have {size} characters, because each word comes with its whole text: "
            f"ask for fewer words or send a shorter text; {limits.max_body} is the most.",
        )
    calls = [partial(_fill, model, text, top_k, targets) for text in texts]
    return Request(calls, weight, first if single else list, warning)


def _target_notes(model: FillMask, targets: list[str]) -> str:
    """The sentences about replaced targets, as ASCII. Raises RequestError if no target is left.

    Many targets are tokenised only by the worker, because the server answers no other request meanwhile.
    """
    if sum(map(len, targets)) > _TARGETS:
        return ""
    try:
        notes = model.target_ids(targets).notes
    except UsageError as error:
        refuse(str(error))
    more = f" and {len(notes) - 3} more." if len(notes) > 3 else ""
    return " ".join(notes[:3]).encode("ascii", "backslashreplace").decode() + more


def _fill(model: FillMask, text: str, top_k: int, targets: list[str] | None) -> Any:
    """The answer for one text. The client gets the warnings about targets, so the server's log doesn't."""
    if targets is not None:
        targets = model.tokenizer.convert_ids_to_tokens(model.target_ids(targets).ids)
    return model(text, top_k=top_k, targets=targets)


def _describe(limits: RequestLimits) -> Description:
    word = {"$ref": "#/components/schemas/Word"}
    parameters = {
        "top_k": {"type": ["integer", "null"], "minimum": 1, "default": TOP_K},
        "targets": {
            "description": "The words to choose from. A word that is not in the vocabulary is replaced with its first "
            "word piece, and the header x-warning says so.",
            "oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}],
        },
    }
    return Description(
        {
            "inputs": texts_schema(text_schema(limits, r"\[MASK\]"), limits),
            "parameters": parameters_schema(parameters),
        },
        list_of({"oneOf": [word, list_of(word), list_of(list_of(word))]}),
        {"inputs": "This is a great [MASK]!", "parameters": {"top_k": 3}},
    )


def _model_type(bundle: Bundle) -> dict[str, Any]:
    return {"fill-mask": {}}


HTTP = Http(
    endpoints=(Endpoint("/models/fill-mask", "Hugging Face inference API: words for [MASK]", fill_mask, _describe),),
    schemas={
        "Word": {
            "type": "object",
            "required": ["score", "token", "token_str", "sequence"],
            "properties": {
                "score": {"type": "number"},
                "token": {"type": "integer"},
                "token_str": {"type": "string"},
                "sequence": {"type": "string"},
            },
        },
    },
    sample=_MASKED,
    model_type=_model_type,
)
