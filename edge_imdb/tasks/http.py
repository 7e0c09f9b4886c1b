"""What the HTTP side of a task is made of: Endpoint, Request, RequestError, and the checks that endpoints share.

Nothing here needs the extra ``serve``: a task describes its endpoints, and ``edge_imdb.serve`` answers on them.
Whatever the bytes of a body are, an endpoint's ``parse`` raises nothing but RequestError.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from ..errors import EdgeImdbError
from ..runtime.bundle import Bundle


class RequestLimits(Protocol):
    """The limits of the server that an endpoint checks."""

    @property
    def max_body(self) -> int: ...
    @property
    def max_characters(self) -> int: ...
    @property
    def max_texts(self) -> int: ...
    @property
    def max_masks(self) -> int: ...


# The error types of text-embeddings-inference (TEI), router/src/lib.rs, ``ErrorType``. Its clients read them beside the
# sentence, so the spelling is part of the protocol.
ERROR_TYPES = ("Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty")
_BY_STATUS = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}


class RequestError(EdgeImdbError):
    """A request that the server can't answer.

    Arguments:
        status: the HTTP status of the answer.
        sentence: what is wrong, and what the client can do.
        retry_after: seconds after which the client may try again.
        error_type: one of ERROR_TYPES; None takes the usual type of ``status``.

    >>> error = RequestError(429, "The server is busy: try again in 2 s.", 2)
    >>> error.error_type, error.retry_after
    ('Overloaded', 2)
    """

    def __init__(
        self, status: int, sentence: str, retry_after: int | None = None, error_type: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after
        self.error_type = error_type or _BY_STATUS.get(status, "Validation" if status < 500 else "Backend")


@dataclass(frozen=True)
class Request:
    """A parsed request.

    ``calls`` has a call for each text. ``weight`` is their expected work, in texts of mean length. ``answer`` turns the
    results of the calls into the content of the answer. ``warning`` tells the client in ASCII what was ignored; None if
    nothing was.
    """

    calls: Sequence[Callable[[], Any]]
    weight: float
    answer: Callable[[list[Any]], Any]
    warning: str | None = None


@dataclass(frozen=True)
class Description:
    """An endpoint in the OpenAPI document.

    ``properties`` are those of the request's object, of which only ``required`` must be there; ``answer`` is the schema
    of the answer.
    """

    properties: Mapping[str, Any]
    answer: Mapping[str, Any]
    example: Mapping[str, Any]
    required: str = "inputs"


@dataclass(frozen=True)
class Endpoint:
    """A path that answers POST requests with the results of a model.

    ``parse`` gets the body, the open model and the limits. Raises RequestError if the request can't be answered.
    ``queue`` names the kind of work, of which the server measures the mean time; None is the task itself.
    """

    path: str
    summary: str
    parse: Callable[[bytes, Any, RequestLimits], Request]
    describe: Callable[[RequestLimits], Description]
    queue: str | None = None


@dataclass(frozen=True)
class Http:
    """The HTTP side of a task.

    The first of ``endpoints`` is the one that Hugging Face's inference API has for the task: it also answers at ``/``
    if the server has no other task before this one. ``schemas`` are the OpenAPI components that the endpoints refer to.
    ``sample`` is a text of about the mean length, from which the server estimates its rate at the start. ``model_type``
    is the field of that name in the answer of ``/info``. ``invocations`` answers SageMaker's path of that name; None is
    the first endpoint.
    """

    endpoints: Sequence[Endpoint]
    schemas: Mapping[str, Any]
    sample: str
    model_type: Callable[[Bundle], dict[str, Any]]
    invocations: Endpoint | None = None


def text_schema(limits: RequestLimits, pattern: str | None = None) -> dict[str, Any]:
    """The schema of a text."""
    schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": limits.max_characters}
    return schema if pattern is None else {**schema, "pattern": pattern}


def texts_schema(text: Mapping[str, Any], limits: RequestLimits) -> dict[str, Any]:
    """The schema of ``inputs``: a text or a list of texts."""
    several = {"type": "array", "minItems": 1, "maxItems": limits.max_texts, "items": text}
    return {"oneOf": [text, several]}


def parameters_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of ``parameters``. Parameters that it doesn't have are ignored."""
    return {"type": ["object", "null"], "properties": properties}


def list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises RequestError.

    >>> json_object(b'{"inputs": "great film"}')
    {'inputs': 'great film'}
    """

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
        raise RequestError(400, f'The body is {kind_of(record)}, not an object: send {{"inputs": "a text"}}.')
    return record


def texts_of(record: dict[str, Any], limits: RequestLimits) -> tuple[list[str], bool]:
    """The texts of ``inputs``, and whether ``inputs`` is a single text instead of a list. Raises RequestError."""
    inputs = record.get("inputs")
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list):
        refuse(f"inputs is {kind_of(inputs)}: it must be a text or a list of texts.")
    if not texts:
        refuse_empty("inputs is empty: give at least one text.")
    for text in texts:
        if not isinstance(text, str):
            refuse(f"inputs has {kind_of(text)} among its texts: each must be a string.")
    check_texts(texts, limits)
    return texts, isinstance(inputs, str)


def check_texts(texts: list[str], limits: RequestLimits) -> None:
    """Raise RequestError if there are too many texts or if a text is too long."""
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"inputs has {len(texts)} texts: {limits.max_texts} is the most in one request.")
    longest = max(map(len, texts))
    if longest > limits.max_characters:
        raise RequestError(413, f"A text has {longest} characters: {limits.max_characters} is the most.")


def parameters_of(record: dict[str, Any], known: tuple[str, ...]) -> tuple[dict[str, Any], str | None]:
    """The object ``parameters``, and a warning that names those that the endpoint doesn't know, None if there are none.

    Clients send whatever the specification of a task has, so an unknown parameter is ignored. Raises RequestError if
    ``parameters`` isn't an object.

    >>> parameters_of({"parameters": {"top_k": 2, "seed": 1}}, ("top_k",))
    ({'top_k': 2, 'seed': 1}, 'Ignored parameters: "seed"')
    """
    parameters = record.get("parameters")
    if parameters is None:
        return {}, None
    if not isinstance(parameters, dict):
        refuse(f"parameters is {kind_of(parameters)}: it must be an object, or left out.")
    ignored = [shown(name) for name, value in parameters.items() if name not in known and value is not None]
    if not ignored:
        return parameters, None
    more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
    return parameters, f"Ignored parameters: {', '.join(ignored[:3])}{more}"


def positive(parameters: dict[str, Any], name: str) -> int | None:
    """A whole number of at least 1, which may be written as 2.0; None if it is missing. Raises RequestError.

    >>> positive({"top_k": 2.0}, "top_k")
    2
    """
    value = parameters.get(name)
    if value is None:
        return None
    # JSON Schema's "integer" includes 2.0, and clients in languages with one type of number send it.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if not whole or isinstance(value, bool) or value < 1:
        refuse(f"{name} is {shown(value)}: it must be a whole number, 1 or more.")
    return int(value)


def flag(record: dict[str, Any], name: str, default: bool) -> bool:
    """A boolean; ``default`` if it is missing. Raises RequestError."""
    value = record.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        refuse(f"{name} is {shown(value)}: it must be true or false.")
    return value


def first(results: list[Any]) -> Any:
    """The answer to a request with a single text."""
    return results[0]


def encodable(word: str) -> bool:
    """Whether UTF-8 can encode ``word``, which half of a surrogate pair prevents."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    """The type of a JSON value, for an error message."""
    if value is None:
        return "missing"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]


def shown(value: Any) -> str:
    """A wrong value, shortened for an error message."""
    try:
        return f"{json.dumps(value):.40}"
    except ValueError:
        # A number of more digits than Python prints.
        return "a very large number"


def refuse(sentence: str, error_type: str | None = None) -> NoReturn:
    """Raise a RequestError of status 422."""
    raise RequestError(422, sentence, error_type=error_type)


def refuse_empty(sentence: str) -> NoReturn:
    """Raise the RequestError of TEI for a request without any text: status 400, type ``Empty``."""
    raise RequestError(400, sentence, error_type="Empty")
