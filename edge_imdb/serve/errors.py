"""status_of and error_body: the HTTP status and the body of the answer to an error."""

from __future__ import annotations

from ..errors import EdgeImdbError, InputError, UsageError
from ..tasks.http import RequestError as RequestError

# text-embeddings-inference's word for each kind of error, which its clients read beside the sentence.
_KINDS = {413: "validation", 422: "validation", 429: "overloaded", 500: "backend", 503: "unhealthy"}


class ClientGone(Exception):
    """The client closed its connection: nobody is there to answer."""


def status_of(error: EdgeImdbError) -> int:
    """422 for a text or a parameter that can't be used, 500 for a bundle that fails, else what the error says."""
    if isinstance(error, RequestError):
        return error.status
    return 422 if isinstance(error, (InputError, UsageError)) else 500


def error_body(status: int, sentence: str) -> dict[str, str]:
    """What every error is answered with: ``{"error", "error_type"}``."""
    return {"error": sentence, "error_type": _KINDS.get(status, "validation" if status < 500 else "backend")}
