"""Connection: uvicorn's HTTP/1.1 protocol, with deadlines for headers, for bodies, and for fetching the answer.

uvicorn itself waits for the headers for ever, and answers in plain text if the bytes aren't HTTP or if there are too
many connections.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import RequestError, error_body
from .limits import Limits

# Seconds that a client has to read an error before its connection is closed.
_LINGER = 0.5


class Connection(H11Protocol):
    """One connection. ``connection_class`` sets ``limits``, and ``refused``, which gets the status of each refusal."""

    limits: Limits
    refused: Callable[[int], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None
        # The reason for the deadline: "headers", "body", or "answer".
        self._awaited: str | None = None
        self._refused = False
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        # The refusal is sent once the client has sent something, because closing a connection with unread bytes would
        # lose the answer.
        self._refused = len(self.connections) > self.limits.max_connections
        self._await("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        if self._refused:
            self._answer(429, "The server has too many connections: try again in 1 s.", "retry-after: 1\r\n")
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            # Old clients send an empty line after a body, and servers should ignore it (RFC 9112, section 2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return
        try:
            super().data_received(data)
        except UnicodeDecodeError:
            # uvicorn reads the path as ASCII; h11 lets other bytes pass.
            self._answer(400, "The path has bytes that are not ASCII: percent-encode them.")
            return
        self._check()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._check()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await("answer")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._await(None)
        self._check()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_if_not_fetched()

    def shutdown(self) -> None:
        super().shutdown()
        self._abort_if_not_fetched()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles h11's error."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._answer(431, f"The headers are larger than {self.limits.max_headers} bytes: send fewer.")
        else:
            self._answer(400, "This is not an HTTP/1.1 request that the server understands.")

    def _check(self) -> None:
        """Set the deadline for the client's next part."""
        if self._answered or self.transport.is_closing() or self._awaited == "answer":
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._await("body")
        elif state is h11.IDLE and self.conn.trailing_data[0]:
            # The next request has begun; an idle connection has uvicorn's own deadline.
            self._await("headers")
        else:
            self._await(None)

    def _await(self, what: str | None) -> None:
        """Start the deadline for ``what``, unless it is already running. None cancels the deadline."""
        if what == self._awaited:
            return
        self._awaited = what
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if what is not None:
            seconds = self.limits.header_timeout if what == "headers" else self.limits.body_timeout
            self._deadline = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        what = self._awaited
        if what == "answer" or (what == "body" and self.cycle is not None and self.cycle.response_started):
            # The request was already answered, for example because it is too large, or the client doesn't read.
            self.transport.abort()
        elif what == "headers" and not self.conn.trailing_data[0]:
            # Browsers open connections in advance and may never use them.
            self.transport.close()
        else:
            limit = self.limits.header_timeout if what == "headers" else self.limits.body_timeout
            self._answer(408, f"The {what} took longer than {limit:g} s: send the whole request at once.")

    def _answer(self, status: int, sentence: str, header: str = "") -> None:
        """Write an error without h11, and close the connection when the client does, or after ``_LINGER``."""
        if self._answered or self.transport.is_closing():
            return
        self._answered = True
        self._await(None)
        self._unset_keepalive_if_required()
        type(self).refused(status)
        body = json.dumps(error_body(RequestError(status, sentence))).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{header}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # Closing while the client still sends would reset the connection, and the client would lose the answer.
        self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.abort)

    def _abort_if_not_fetched(self) -> None:
        """Close a connection for good if the client doesn't fetch the rest of its answer in time."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.body_timeout, self.transport.abort)


def connection_class(limits: Limits, refused: Callable[[int], None]) -> type[Connection]:
    """The protocol class for uvicorn's Config, with these limits. ``refused`` gets the status of every refusal."""
    return type("Connection", (Connection,), {"limits": limits, "refused": staticmethod(refused)})
