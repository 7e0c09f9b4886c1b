from __future__ import annotations

from functools import partial
from typing import Any

from edge_imdb.runtime.bundle import Bundle
from edge_imdb.tasks.http import (
    Description,
    Endpoint,
    Http,
    Request,
    RequestLimits,
    json_object,
    list_of,
    text_schema,
    texts_of,
    texts_schema,
)


def topic(body: bytes, model: Any, limits: RequestLimits) -> Request:
    texts, _ = texts_of(json_object(body), limits)
    return Request([partial(_topic_of, model, text) for text in texts], len(texts), list)


def _topic_of(model: Any, text: str) -> dict[str, str]:
    return {"topic": model(text)[0]["label"]}


def _describe(limits: RequestLimits) -> Description:
    answer = {"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}}
    return Description(
        {"inputs": texts_schema(text_schema(limits), limits)}, list_of(answer), {"inputs": "The cast was good."}
    )


def _model_type(bundle: Bundle) -> dict[str, Any]:
    return {"topics": bundle.labels}


HTTP = Http(
    endpoints=(Endpoint("/models/topic", "Topics of sentences", topic, _describe),),
    schemas={},
    sample="The cast was good.",
    model_type=_model_type,
)
