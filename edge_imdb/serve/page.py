"""Page: the page of edge-imdb web below /web/, with the server's own bundles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request as HTTPRequest
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse

from ..errors import BundleError
from ..tasks import TASKS
from ..web.server import kind_of
from ..web.site import HEADERS, Site, make_site
from .errors import RequestError
from .guard import WEB
from .state import State

# Bytes per part of an answer. The client gets a deadline for each part, not for the whole file.
_CHUNK = 65_536


class Page:
    """The files of the site. They are made at the first request, since that takes a second and 14 MB."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._site: Site | None = None
        self._making = asyncio.Lock()

    async def home(self, request: HTTPRequest) -> Response:
        """Redirect to the page, by a path that also holds behind a proxy with a prefix."""
        return RedirectResponse("web/", 307)

    async def answer(self, request: HTTPRequest) -> Response:
        """One file of the site. Raises RequestError."""
        site = await self._made()
        name = request.path_params["path"] or "index.html"
        if name not in site.files:
            raise RequestError(404, "There is no such file: the page is at /web/.")
        headers = {**HEADERS, "Cache-Control": "no-cache"}
        content = site.files[name]
        if not isinstance(content, bytes):
            return FileResponse(content, headers=headers, media_type=kind_of(name))
        headers["Content-Length"] = str(len(content))
        return StreamingResponse(_parts(content), headers=headers, media_type=kind_of(name))

    async def _made(self) -> Site:
        state = self._state
        if not state.ready:
            raise RequestError(503, "The model is still loading: try again in a second.", 1)
        async with self._making:
            if self._site is None:
                places: dict[str, Path | None] = {
                    task: model.bundle.path for task, model in state.models.items() if TASKS[task].page_graph
                }
                try:
                    self._site = await asyncio.to_thread(make_site, places)
                except BundleError as error:
                    state.log.failure(WEB, error)
                    raise RequestError(404, "There is no page for these bundles: see the server's log.") from None
            return self._site


async def _parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
