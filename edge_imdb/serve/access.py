"""Who may call the server: the check of the API key, and the websites whose pages may send requests."""

from __future__ import annotations

import contextlib
import hmac
import re
from urllib.parse import urlsplit

from ..errors import UsageError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def checked_key(key: str) -> str:
    """The API key without the white space around it, since files with secrets end in a newline. Raises UsageError.

    >>> checked_key("secret\\n")
    'secret'
    """
    stripped = key.strip()
    if not stripped:
        raise UsageError("--api-key is empty, or EDGE_IMDB_API_KEY is: give a key, or leave both out.")
    if not stripped.isprintable():
        raise UsageError(
            "--api-key, or EDGE_IMDB_API_KEY, has a line break or another control character inside it, which no HTTP "
            "header can carry: use printable characters only."
        )
    return stripped


class Key:
    """Checks the Authorization header of a request against the API key.

    >>> Key("secret").accepts(b"bearer secret"), Key("secret").accepts(b"Bearer wrong")
    (True, False)
    """

    def __init__(self, key: str) -> None:
        self._forms = [key.encode()]
        # Clients send what isn't ASCII in either encoding: http.client, for example, in Latin-1.
        with contextlib.suppress(UnicodeEncodeError):
            self._forms.append(key.encode("latin-1"))

    def accepts(self, authorization: bytes) -> bool:
        """Whether the header's value is ``Bearer KEY``. The scheme's case doesn't matter (RFC 9110, section 11.1)."""
        scheme, _, given = authorization.strip().partition(b" ")
        given = given.strip()
        # Compares every form, so that the time reveals nothing about the key.
        equal = [hmac.compare_digest(given, form) for form in self._forms]
        return scheme.lower() == b"bearer" and any(equal)


def checked_origin(origin: str) -> str:
    """An origin as browsers write it in the Origin header: lower case, without a slash or a default port.

    ``*`` and ``null`` (pages from files) stay as they are. Source: RFC 6454, section 6.2. Raises UsageError.

    >>> checked_origin("HTTPS://Example.org:443/")
    'https://example.org'
    """
    text = origin.strip()
    if text in ("*", "null"):
        return text
    wrong = UsageError(
        f"--cors-origin {origin!r} is not an origin: write the scheme, the host and, if it isn't the default, the port "
        "of the website, such as https://example.org or http://localhost:3000."
    )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or "?" in text or "#" in text:
        raise UsageError(
            f"--cors-origin {origin!r} has a path, but browsers send only the origin: leave out what follows the host."
        )
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    if not host.isascii():
        # Browsers send the ASCII form of an international name.
        try:
            host = host.lower().encode("idna").decode()
        except UnicodeError:
            raise wrong from None
    host = host.lower()
    if not _SCHEME.fullmatch(parts.scheme) or not _HOST.fullmatch(host):
        raise wrong
    if port is None or _DEFAULT_PORTS.get(parts.scheme) == port:
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"
