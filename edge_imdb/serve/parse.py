"""Turn a request's body into calls of Sentiment or FillMask, or into a RequestError if anything is wrong with it.

Hugging Face's inference API (``sentiment``, ``fill_mask``) and text-embeddings-inference's ``/predict`` (``predict``).
Whatever the bytes are, these functions raise nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np

from ..data.metrics import softmax
from ..data.text import clean
from ..tasks.fill_mask.pipeline import MASK, FillMask
from ..tasks.sentiment.pipeline import Sentiment
from .errors import RequestError
from .limits import Limits

FUNCTIONS = ("softmax", "sigmoid", "none")
DIRECTIONS = ("Left", "left", "Right", "right")
TOP_K = 5
# What explaining a text takes, in texts: up to 1.5 of them, measured on texts of 10, 1,043 and 3,129 characters.
_EXPLAINED = 1.5
# English that fills the 512 tokens which the model reads at once has about 2,000 characters; a longer text with masks
# far apart takes a run for every group of them.
_WINDOW = 1500


@dataclass(frozen=True)
class Request:
    """What to do: a call for each text; how many texts of mean length that is; and the answer made of the results."""

    task: str
    calls: Sequence[Callable[[], Any]]
    weight: float
    answer: Callable[[list[Any]], Any]


def sentiment(body: bytes, model: Sentiment, limits: Limits) -> Request:
    """``{"inputs": str | [str], "parameters": {"top_k", "function_to_apply"}}``; the answer is nested, [[{}]]."""
    record = _object(body)
    texts, _ = _texts(record, limits)
    parameters = _parameters(record, ("top_k", "function_to_apply"))
    top_k = _positive(parameters, "top_k")
    function = parameters.get("function_to_apply")
    if function is not None and function not in FUNCTIONS:
        _refuse(f"function_to_apply is {_shown(function)}: use {', '.join(FUNCTIONS)}.")
    calls = [partial(classify, model, text, top_k, function or "softmax") for text in texts]
    return Request("sentiment", calls, len(calls), list)


def fill_mask(body: bytes, model: FillMask, limits: Limits) -> Request:
    """``{"inputs": str | [str], "parameters": {"top_k", "targets"}}``; the answer is that of FillMask."""
    record = _object(body)
    texts, single = _texts(record, limits)
    parameters = _parameters(record, ("top_k", "targets"))
    top_k = _positive(parameters, "top_k") or TOP_K
    targets = parameters.get("targets")
    if targets is not None:
        targets = [targets] if isinstance(targets, str) else targets
        if not isinstance(targets, list) or not targets or not all(isinstance(word, str) for word in targets):
            _refuse('targets must be a list of words, as in "targets": ["good", "bad"].')
        if any(not _encodable(word) for word in targets):
            _refuse("targets has a word with half of a surrogate pair, which is not a character: leave it out.")
        top_k = min(top_k, len(targets))
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
    calls = [partial(model, text, top_k=top_k, targets=targets) for text in texts]
    return Request("fill-mask", calls, weight, _first if single else list)


def predict(body: bytes, model: Sentiment, limits: Limits) -> Request:
    """``{"inputs": str | [[str]], "raw_scores", "truncate"}``, as text-embeddings-inference takes it.

    One text is answered flat, [{}], a batch nested. ``truncate`` false refuses a text that the model doesn't read
    whole; by default it is cut, as that server does with --auto-truncate.
    """
    record = _object(body)
    inputs = record.get("inputs")
    batch = inputs if isinstance(inputs, list) and inputs and isinstance(inputs[0], list) else None
    if batch is not None and not all(isinstance(entry, list) for entry in batch):
        _refuse('inputs mixes texts and lists: a batch is [["a"], ["b"]].')
    texts = [_one(inputs)] if batch is None else [_one(entry) for entry in batch]
    _check_texts(texts, limits)
    raw, truncate = (_flag(record, name, default) for name, default in (("raw_scores", False), ("truncate", True)))
    direction = record.get("truncation_direction")
    if direction is not None and direction not in DIRECTIONS:
        _refuse(f"truncation_direction is {_shown(direction)}: use Left or Right, or leave it out.")
    calls = [partial(_predict, model, text, "none" if raw else "softmax", truncate) for text in texts]
    return Request("sentiment", calls, len(calls), _first if batch is None else list)


def explain(body: bytes, model: Sentiment, limits: Limits) -> Request:
    """``{"inputs": str | [str]}``; the answer is what ``Sentiment.explain`` returns, for a list a list of such."""
    record = _object(body)
    texts, single = _texts(record, limits)
    _parameters(record, ())
    if "explain" not in model.bundle.graphs:
        _refuse("This model has no graph that explains a label: its bundle must be exported again, in int8.")
    calls = [partial(model.explain, text) for text in texts]
    return Request("sentiment", calls, _EXPLAINED * len(calls), _first if single else list)


def classify(model: Sentiment, text: str, top_k: int | None, function: str) -> list[Any]:
    """The labels of one text with their scores, best first: ``top_k`` of them, None for all.

    ``softmax`` gives the calibrated probabilities of Sentiment; ``none`` the logits of the whole review, and
    ``sigmoid`` their logistic function. Raises InputError if the text is blank.
    """
    if function == "softmax":
        ranked: list[Any] = model(text, top_k=top_k)
        return ranked
    logits = model.logits(text).astype(np.float64)
    # The logistic function is a softmax over the logit and 0.
    scores = logits if function == "none" else np.array([softmax(np.array([logit, 0.0]))[0] for logit in logits])
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": model.labels[i], "score": float(scores[i])} for i in order]


def _predict(model: Sentiment, text: str, function: str, truncate: bool) -> list[Any]:
    if not truncate:
        length, most = model.count_tokens(text), model.bundle.truncation.max_length
        if length > most:
            raise RequestError(
                413, f"inputs has {length} tokens, but the model reads at most {most}: set truncate to true."
            )
    return classify(model, text, None, function)


def _object(body: bytes) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    try:
        record = json.loads(body, parse_constant=constant)
    except RecursionError:
        raise RequestError(400, "The body is nested too deeply: send one object, with inputs.") from None
    except ValueError as error:
        # JSONDecodeError and UnicodeDecodeError are ValueErrors. The reason may quote no text.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is not UTF-8, or has no valid number"
        raise RequestError(400, f'The body is not JSON ({reason}): send {{"inputs": "a text"}}.') from None
    if not isinstance(record, dict):
        raise RequestError(400, f'The body is {_kind(record)}, not an object: send {{"inputs": "a text"}}.')
    return record


def _texts(record: dict[str, Any], limits: Limits) -> tuple[list[str], bool]:
    """The texts of ``inputs``, and whether it is one text alone."""
    inputs = record.get("inputs")
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list):
        _refuse(f"inputs is {_kind(inputs)}: it must be a text or a list of texts.")
    if not texts:
        _refuse("inputs is empty: give at least one text.")
    for text in texts:
        if not isinstance(text, str):
            _refuse(f"inputs has {_kind(text)} among its texts: each must be a string.")
    _check_texts(texts, limits)
    return texts, isinstance(inputs, str)


def _one(value: Any) -> str:
    """One text of /predict: a string, or a list of one string."""
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(part, str) for part in value):
            _refuse('inputs holds a pair of texts, which this model doesn\'t read: a batch is [["a"], ["b"]].')
        if len(value) != 1:
            _refuse('inputs must be a text, or a batch such as [["a"], ["b"]].')
        value = value[0]
    if not isinstance(value, str):
        _refuse(f'inputs holds {_kind(value)}: it must be a text, or a batch such as [["a"], ["b"]].')
    text: str = value
    return text


def _check_texts(texts: list[str], limits: Limits) -> None:
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"inputs has {len(texts)} texts: {limits.max_texts} is the most in one request.")
    longest = max(map(len, texts))
    if longest > limits.max_characters:
        raise RequestError(413, f"A text has {longest} characters: {limits.max_characters} is the most.")


def _parameters(record: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    parameters = record.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        _refuse(f"parameters is {_kind(parameters)}: it must be an object, or left out.")
    for name, value in parameters.items():
        if name not in known and value is not None:
            _refuse(f"There is no parameter {_shown(name)}: {_use(known)}.")
    return parameters


def _use(known: tuple[str, ...]) -> str:
    return f"use {' and '.join(known)}" if known else "leave it out"


def _positive(parameters: dict[str, Any], name: str) -> int | None:
    value = parameters.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        _refuse(f"{name} is {_shown(value)}: it must be a whole number, 1 or more.")
    return value


def _flag(record: dict[str, Any], name: str, default: bool) -> bool:
    value = record.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        _refuse(f"{name} is {_shown(value)}: it must be true or false.")
    return value


def _first(results: list[Any]) -> Any:
    return results[0]


def _encodable(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    if value is None:
        return "missing"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]


def _shown(value: Any) -> str:
    """A wrong value for a sentence, cut short."""
    try:
        return f"{json.dumps(value):.40}"
    except ValueError:
        # A number of more digits than Python prints.
        return "a very large number"


def _refuse(sentence: str) -> NoReturn:
    raise RequestError(422, sentence)
