"""make_server: the site over HTTP, for this machine's browser."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import UsageError
from .site import HEADERS, Site

_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
}


def kind_of(name: str) -> str:
    """The content type of a file of the site."""
    return _KINDS.get(name.rpartition(".")[2], "application/octet-stream")


def make_server(site: Site, host: str, port: int) -> ThreadingHTTPServer:
    """A server bound to ``host`` and ``port``, 0 for any free one; ``serve_forever`` runs it.

    Raises UsageError if the port is taken or can't be used.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A client that opens a connection and says nothing must not hold a thread for ever.
        timeout = 60

        def do_GET(self) -> None:
            self._answer(True)

        def do_HEAD(self) -> None:
            self._answer(False)

        def _answer(self, with_content: bool) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            found = name in site.files
            content = site.read(name) if found else b"There is no such file.\n"
            self.send_response(200 if found else 404)
            kind = kind_of(name) if found else "text/plain"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-cache")
            for header, value in HEADERS.items():
                self.send_header(header, value)
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            # A browser that goes away in the middle is not an error.
            pass

    try:
        return Server((host, port), Handler)
    except OSError as error:
        raise UsageError(f"{host}:{port} can't be used ({error.strerror}): give another --port or --host.") from None
