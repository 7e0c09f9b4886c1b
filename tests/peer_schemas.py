"""The facts of the peers' published schemas that concern this server, in JSON Schema, written for our tests.

TEI: text-embeddings-inference, docs/openapi.json at commit 0d124dc (2026-07-24), Apache-2.0. Its ``nullable`` is the
type "null" here. Hugging Face's tasks: huggingface.js, packages/tasks/src/tasks/*/spec/{input,output}.json at
commit fe42e68 (2026-08-21), MIT. One fact is left out on purpose: the output of fill-mask requires ``tokenStr`` there,
but its own property is ``token_str``, which is what every server sends and every client reads.
"""

from __future__ import annotations

from typing import Any


def record(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
TEXT_OR_NULL, COUNT_OR_NULL = {"type": ["string", "null"]}, {"type": ["integer", "null"], "minimum": 0}

_LABELS = record(
    "id2label label2id",
    id2label={"type": "object", "additionalProperties": TEXT},
    label2id={"type": "object", "additionalProperties": COUNT},
)
_PREDICTION = record("score label", score=NUMBER, label=TEXT)

TEI: dict[str, dict[str, Any]] = {
    "ErrorResponse": record(
        "error error_type",
        error=TEXT,
        error_type={"enum": ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]},
    ),
    "OpenAICompatErrorResponse": record(
        "message code type",
        message=TEXT,
        code=COUNT,
        type={"enum": ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]},
    ),
    "Info": record(
        "model_id model_dtype served_model_name model_type max_concurrent_requests max_input_length max_batch_tokens "
        "max_client_batch_size auto_truncate tokenization_workers version",
        model_id=TEXT,
        model_sha=TEXT_OR_NULL,
        model_dtype=TEXT,
        served_model_name=TEXT,
        model_type={
            "oneOf": [
                record("classifier", classifier=_LABELS),
                record("embedding", embedding=record("pooling", pooling=TEXT)),
                record("reranker", reranker=_LABELS),
            ]
        },
        max_concurrent_requests=COUNT,
        max_input_length=COUNT,
        max_batch_tokens=COUNT,
        max_batch_requests=COUNT_OR_NULL,
        max_client_batch_size=COUNT,
        auto_truncate=FLAG,
        tokenization_workers=COUNT,
        version=TEXT,
        sha=TEXT_OR_NULL,
        docker_label=TEXT_OR_NULL,
    ),
    "PredictResponse": {"oneOf": [array(_PREDICTION), array(array(_PREDICTION))]},
    "TokenizeResponse": array(
        array(record("id text special", id=COUNT, text=TEXT, special=FLAG, start=COUNT_OR_NULL, stop=COUNT_OR_NULL))
    ),
    "DecodeResponse": array(TEXT),
}

HUGGING_FACE: dict[str, dict[str, Any]] = {
    "text-classification input": record(
        "inputs",
        inputs=TEXT,
        parameters=record(
            function_to_apply={"enum": ["sigmoid", "softmax", "none"]},
            top_k={"type": "integer"},
        ),
    ),
    "text-classification output": array(record("label score", label=TEXT, score=NUMBER)),
    "fill-mask input": record("inputs", inputs=TEXT, parameters=record(top_k={"type": "integer"}, targets=array(TEXT))),
    "fill-mask output": array(
        record("sequence score token token_str", sequence=TEXT, score=NUMBER, token={"type": "integer"}, token_str=TEXT)
    ),
}
