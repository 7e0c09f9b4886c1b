"""start: start a thread, and let what a signal handler raises meanwhile through."""

from __future__ import annotations

import threading


def start(thread: threading.Thread) -> None:
    """Start ``thread``. An exception from a signal handler, such as a time limit, is raised as it is.

    CPython's ``Thread.start`` can turn such an exception into a KeyError: it takes the exception for a failure to
    start, and then removes a thread that has already registered itself.

    >>> thread = threading.Thread(target=print, args=["started"])
    >>> start(thread)
    started
    >>> thread.join()
    """
    try:
        thread.start()
    except KeyError as error:
        raise (error.__context__ or error) from None
