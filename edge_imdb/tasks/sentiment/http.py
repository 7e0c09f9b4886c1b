"""HTTP: the endpoints of sentiment.

Hugging Face's inference API at ``/models/sentiment``; ``/predict`` of text-embeddings-inference (TEI); SageMaker's
``/invocations``; and ``/explain``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.metrics import softmax
from ...data.text import Truncation
from ...runtime.bundle import Bundle
from ..http import (
    Description,
    Endpoint,
    Http,
    Request,
    RequestError,
    RequestLimits,
    check_texts,
    first,
    flag,
    json_object,
    kind_of,
    list_of,
    parameters_of,
    parameters_schema,
    positive,
    refuse,
    refuse_empty,
    shown,
    text_schema,
    texts_of,
    texts_schema,
)
from .pipeline import Sentiment

FUNCTIONS = ("softmax", "sigmoid", "none")
DIRECTIONS = ("Left", "left", "Right", "right")
# The work of explaining a text, in texts: at most 1.5, measured on texts of 10, 1,043 and 3,129 characters.
_EXPLAINED = 1.5
# About the mean length of IMDb's reviews.
_REVIEW = " ".join(["The cast was good, and so was the script, but after an hour I no longer cared who won."] * 12)


def sentiment(body: bytes, model: Sentiment, limits: RequestLimits) -> Request:
    """``{"inputs": str | [str], "parameters": {"top_k", "function_to_apply"}}``; the answer is a list of lists."""
    record = json_object(body)
    texts, _ = texts_of(record, limits)
    return _classification(record, texts, model, list)


def _classification(
    record: dict[str, Any], texts: list[str], model: Sentiment, answer: Callable[[list[Any]], Any]
) -> Request:
    parameters, warning = parameters_of(record, ("top_k", "function_to_apply"))
    top_k = positive(parameters, "top_k")
    function = parameters.get("function_to_apply")
    # transformers takes upper case too, and "default" for the function that the model's configuration names.
    name = function.lower() if isinstance(function, str) else function
    name = "softmax" if name is None or name == "default" else name
    if name not in FUNCTIONS:
        refuse(f"function_to_apply is {shown(function)}: use {', '.join(FUNCTIONS)}.")
    calls = [partial(classify, model, text, top_k, name) for text in texts]
    return Request(calls, len(calls), answer, warning)


def predict(body: bytes, model: Sentiment, limits: RequestLimits) -> Request:
    """``{"inputs": str | [[str]], "raw_scores", "truncate", "truncation_direction"}``, as TEI takes it.

    The answer to one text is flat, [{}], that to a batch nested. ``truncate`` false refuses a text that the model can't
    read whole; by default the text is cut, as TEI does with --auto-truncate. ``truncation_direction`` says which end is
    cut off; without it the text is cut as the model was trained, which keeps both ends.
    """
    record = json_object(body)
    return _prediction(record, model, limits)


def _prediction(record: dict[str, Any], model: Sentiment, limits: RequestLimits) -> Request:
    inputs = record.get("inputs")
    if inputs == []:
        refuse_empty("inputs is empty: give at least one text.")
    batch = inputs if isinstance(inputs, list) and isinstance(inputs[0], list) else None
    if batch is not None and not all(isinstance(entry, list) for entry in batch):
        refuse('inputs mixes texts and lists: a batch is [["a"], ["b"]].')
    texts = [_one(inputs)] if batch is None else [_one(entry) for entry in batch]
    check_texts(texts, limits)
    raw, truncate = (flag(record, name, default) for name, default in (("raw_scores", False), ("truncate", True)))
    direction = record.get("truncation_direction")
    if direction is not None and direction not in DIRECTIONS:
        refuse(f"truncation_direction is {shown(direction)}: use Left or Right, or leave it out.")
    cut_off = None if direction is None else direction.lower()
    calls = [partial(_predict, model, text, "none" if raw else "softmax", truncate, cut_off) for text in texts]
    return Request(calls, len(calls), first if batch is None else list)


def invocations(body: bytes, model: Sentiment, limits: RequestLimits) -> Request:
    """TEI's requests, and those with ``parameters`` or a list of texts, which Hugging Face's containers take.

    The answer to one text is flat, that to a list nested.
    """
    record = json_object(body)
    inputs = record.get("inputs")
    texts_alone = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], str)
    if not texts_alone and record.get("parameters") is None:
        return _prediction(record, model, limits)
    texts, single = texts_of(record, limits)
    return _classification(record, texts, model, first if single else list)


def explain(body: bytes, model: Sentiment, limits: RequestLimits) -> Request:
    """``{"inputs": str | [str]}``; the answer is what ``Sentiment.explain`` returns, for a list a list of such."""
    record = json_object(body)
    texts, single = texts_of(record, limits)
    _, warning = parameters_of(record, ())
    if "explain" not in model.bundle.graphs:
        refuse("This model has no graph that explains a label: its bundle must be exported again, in int8.")
    calls = [partial(model.explain, text) for text in texts]
    return Request(calls, _EXPLAINED * len(calls), first if single else list, warning)


def classify(model: Sentiment, text: str, top_k: int | None, function: str) -> list[Any]:
    """The labels of one text with their scores, best first: ``top_k`` of them, None for all.

    ``softmax`` gives the calibrated probabilities of Sentiment; ``none`` the logits of the whole review, and
    ``sigmoid`` their logistic function. Raises InputError if the text is blank.
    """
    if function == "softmax":
        ranked: list[Any] = model(text, top_k=top_k)
        return ranked
    return _ranked(model, model.logits(text), function)[:top_k]


def _ranked(model: Sentiment, logits: NDArray[np.float32], function: str) -> list[dict[str, Any]]:
    """All labels with the scores that ``function`` makes of the logits, best first."""
    values = logits.astype(np.float64)
    if function == "softmax":
        scores = softmax(logits, model.bundle.temperature)
    elif function == "none":
        scores = values
    else:
        # The logistic function is a softmax over the logit and 0.
        scores = np.array([softmax(np.array([value, 0.0]))[0] for value in values])
    order = np.argsort(-scores, kind="stable")
    return [{"label": model.labels[i], "score": float(scores[i])} for i in order]


def _predict(model: Sentiment, text: str, function: str, truncate: bool, cut_off: str | None) -> list[Any]:
    if truncate and cut_off is None:
        return classify(model, text, None, function)
    length, most = model.count_tokens(text), model.bundle.truncation.max_length
    if length <= most:
        return classify(model, text, None, function)
    if not truncate:
        raise RequestError(
            413, f"inputs has {length} tokens, but the model reads at most {most}: set truncate to true."
        )
    # What is cut off at the right leaves the head.
    cut = Truncation(most, 1.0 if cut_off == "right" else 0.0)
    return _ranked(model, model._logits(model._tokens(text), cut), function)


def _one(value: Any) -> str:
    """One text of /predict: a string, or a list of one string."""
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(part, str) for part in value):
            refuse('inputs holds a pair of texts, which this model doesn\'t read: a batch is [["a"], ["b"]].')
        if len(value) != 1:
            refuse('inputs must be a text, or a batch such as [["a"], ["b"]].')
        value = value[0]
    if not isinstance(value, str):
        refuse(f'inputs holds {kind_of(value)}: it must be a text, or a batch such as [["a"], ["b"]].')
    text: str = value
    return text


_LABEL = {"$ref": "#/components/schemas/Label"}


def _describe(limits: RequestLimits) -> Description:
    parameters = {
        "top_k": {"type": ["integer", "null"], "minimum": 1, "description": "Labels per text; all if left out."},
        "function_to_apply": {"enum": [*FUNCTIONS, None], "default": "softmax"},
    }
    return Description(
        {"inputs": texts_schema(text_schema(limits), limits), "parameters": parameters_schema(parameters)},
        list_of(list_of(_LABEL)),
        {"inputs": "great film"},
    )


def _describe_predict(limits: RequestLimits) -> Description:
    text = text_schema(limits)
    one = {"type": "array", "minItems": 1, "maxItems": 1, "items": text}
    return Description(
        {
            "inputs": {"oneOf": [text, {"type": "array", "minItems": 1, "maxItems": limits.max_texts, "items": one}]},
            "raw_scores": {"type": ["boolean", "null"], "default": False, "description": "Logits."},
            "truncate": {"type": ["boolean", "null"], "default": True},
            "truncation_direction": {
                "enum": [*DIRECTIONS, None],
                "description": "The end to cut off; without it both ends stay, and the middle is cut out.",
            },
        },
        {"oneOf": [list_of(_LABEL), list_of(list_of(_LABEL))]},
        {"inputs": "great film"},
    )


def _describe_invocations(limits: RequestLimits) -> Description:
    tei, hugging_face = _describe_predict(limits), _describe(limits)
    inputs = {"anyOf": [tei.properties["inputs"], hugging_face.properties["inputs"]]}
    return replace(tei, properties={**hugging_face.properties, **tei.properties, "inputs": inputs})


def _describe_explain(limits: RequestLimits) -> Description:
    explanation = {"$ref": "#/components/schemas/Explanation"}
    return Description(
        {"inputs": texts_schema(text_schema(limits), limits)},
        {"oneOf": [explanation, list_of(explanation)]},
        {"inputs": "The plot is thin but the leads are charming."},
    )


def _explanation() -> dict[str, Any]:
    """The schema of the dict that Sentiment.explain returns."""
    kinds = {"start": "integer", "end": "integer", "weight": "number", "alone": "number", "word": "string"}

    def parts(*names: str) -> dict[str, Any]:
        properties = {name: {"type": kinds.get(name, "string")} for name in names}
        return list_of({"type": "object", "required": list(names), "properties": properties})

    properties = {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "toward": {"type": "string", "description": "The label that positive weights support."},
        "margin": {"type": "number", "description": "Its log-odds."},
        "words": parts("word", "start", "end", "weight"),
        "sentences": parts("start", "end", "weight", "alone"),
        "unread": parts("start", "end", "why"),
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _model_type(bundle: Bundle) -> dict[str, Any]:
    labels = {str(number): label for number, label in enumerate(bundle.labels)}
    return {"classifier": {"id2label": labels, "label2id": {label: int(n) for n, label in labels.items()}}}


HTTP = Http(
    endpoints=(
        Endpoint("/models/sentiment", "Hugging Face inference API: sentiment of reviews", sentiment, _describe),
        Endpoint("/predict", "text-embeddings-inference API: sentiment of reviews", predict, _describe_predict),
        Endpoint("/explain", "Which words and sentences of reviews decided", explain, _describe_explain),
    ),
    schemas={
        "Label": {
            "type": "object",
            "required": ["label", "score"],
            "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
        },
        "Explanation": _explanation(),
    },
    sample=_REVIEW,
    model_type=_model_type,
    invocations=Endpoint(
        "/invocations", "SageMaker: sentiment of reviews, as /predict or /", invocations, _describe_invocations
    ),
)
