"""Guard: the middleware that checks each request, such as its key, and writes its line of log and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..tasks import TASKS
from .access import Key
from .encoding import accepted
from .errors import ClientGone, RequestError, error_body
from .state import State

# The paths that say whether the server is ready: TEI's "/" and SageMaker's /ping too. Their GET and HEAD requests are
# answered without a key, because a probe has none.
HEALTH = ("/", "/health", "/ping")
METRICS = "/metrics"
# The folder of the page.
WEB = "/web/"


class Guard:
    """ASGI middleware around ``app`` that refuses requests early and records all of them.

    Arguments:
        queues: for each path that runs a model, the name of its work in the queue.
        paths: every other path; ``WEB`` includes all paths below it. The log and the metrics call any further path
            ``other``.
        key: the key that ``Authorization: Bearer`` must hold; None asks for no key.
        open_metrics: whether /metrics is answered without the key.
        access_log: whether each request is logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: State,
        queues: Mapping[str, str],
        paths: Collection[str],
        key: str | None = None,
        open_metrics: bool = False,
        access_log: bool = True,
    ) -> None:
        self._app = app
        self._state = state
        self._queues = queues
        self._paths = {*queues, *paths}
        self._key = None if key is None else Key(key)
        self._open = {*HEALTH, *(f"/models/{name}/health" for name in TASKS)}
        if open_metrics:
            self._open.add(METRICS)
        self._access_log = access_log
        self._turned_away = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        path: str = scope["path"]
        label = self._label(path)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refused = self._refusal(scope, path)
        if refused is not None:
            status = refused.status
            await send_error(send, refused)
        else:
            self._state.active += 1
            try:
                await self._app(scope, receive, watched)
            except ClientGone:
                # nginx's status for a client that went away. Nobody receives it.
                status = 499
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._state.log.failure(label, error)
                if not status:
                    status = 500
                    await send_error(send, RequestError(500, "The server failed on this request: see its log."))
            finally:
                self._state.active -= 1
        seconds = time.perf_counter() - start
        self._state.metrics.request(label, status, seconds)
        if not self._access_log:
            return
        if status == 429:
            self._count_turned_away()
        else:
            client = scope["client"][0] if scope.get("client") else None
            values = {"method": scope["method"], "path": label, "status": status, "ms": round(1000 * seconds, 2)}
            self._state.log("request", client=client, **values)

    def _label(self, path: str) -> str:
        """The name of a path in the log and in the metrics."""
        if path in self._paths:
            return path
        return WEB if path.startswith(WEB) and WEB in self._paths else "other"

    def _refusal(self, scope: Scope, path: str) -> RequestError | None:
        state, headers = self._state, scope["headers"]
        most = state.limits.max_headers
        # h11 checks the size only of headers that arrive in several parts.
        if len(scope["raw_path"]) + sum(len(name) + len(value) + 4 for name, value in headers) > most:
            return RequestError(431, f"The headers are larger than {most} bytes: send fewer.")
        reads = scope["method"] in ("GET", "HEAD")
        if self._key is not None and not (reads and path in self._open):
            given = next((value for name, value in headers if name == b"authorization"), b"")
            if not self._key.accepts(given):
                return RequestError(401, "The API key is missing or wrong: send Authorization: Bearer KEY.")
        queue = self._queues.get(path)
        if queue is None or scope["method"] != "POST":
            return None
        if state.work is None:
            return RequestError(503, "The model is still loading: try again in a second.", 1)
        if state.draining:
            return RequestError(503, "The server is shutting down: send the request to another one.", 1)
        # Before the body is read, so that refusing a request is cheap.
        return state.work.refusal(queue)

    def _count_turned_away(self) -> None:
        """Count a refused request. The log gets the count once per second, because a line each would cost too much."""
        if not self._turned_away:
            asyncio.get_running_loop().call_later(1, self._log_turned_away)
        self._turned_away += 1

    def _log_turned_away(self) -> None:
        wait = self._state.work.wait if self._state.work else 0.0
        self._state.log("overload", turned_away=self._turned_away, wait_seconds=round(wait, 2))
        self._turned_away = 0


async def send_error(send: Send, error: RequestError) -> None:
    """Answer with the status, the headers and the body of ``error``."""
    await send_json(send, error_body(error), error.status, error_headers(error))


def error_headers(error: RequestError) -> list[tuple[bytes, bytes]]:
    """The headers that go with the status of ``error``."""
    headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 415:
        # RFC 9110, section 12.5.3: the encodings that a request may have.
        headers.append((b"accept-encoding", accepted().encode()))
    if error.status in (408, 503):
        headers.append((b"connection", b"close"))
    return headers


async def send_json(send: Send, content: Any, status: int = 200, headers: Collection[tuple[bytes, bytes]] = ()) -> None:
    """Answer with ``content`` as JSON in UTF-8."""
    # Half of a surrogate pair can't be encoded, so it stays an escape.
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
