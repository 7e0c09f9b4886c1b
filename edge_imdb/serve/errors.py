"""as_request_error and error_body: the HTTP status and the body of the answer to an error."""

from __future__ import annotations

from ..errors import BlankError, EdgeImdbError, InputError, UsageError
from ..tasks.http import RequestError as RequestError


class ClientGone(Exception):
    """The client closed its connection, so that there is nobody to answer."""


def as_request_error(error: EdgeImdbError) -> RequestError:
    """The same error with a status: 422 for a text or a parameter that can't be used, 500 for a bundle that fails.

    >>> as_request_error(InputError("The text has no [MASK].")).status
    422
    """
    if isinstance(error, RequestError):
        return error
    # A sentence may quote a text, which may hold half of a surrogate pair.
    sentence = str(error).encode("utf-8", "replace").decode()
    if isinstance(error, (InputError, UsageError)):
        return RequestError(422, sentence, error_type="Empty" if isinstance(error, BlankError) else None)
    return RequestError(500, sentence)


def error_body(error: RequestError) -> dict[str, str]:
    """The body of the answer to every error, which is TEI's ``ErrorResponse``.

    >>> error_body(RequestError(503, "The model is still loading."))
    {'error': 'The model is still loading.', 'error_type': 'Unhealthy'}
    """
    return {"error": str(error), "error_type": error.error_type}
