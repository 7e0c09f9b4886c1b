"""stop_within_a_second: Ctrl-C ends every command quickly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

# Seconds to wait after Ctrl-C for the command to end by itself.
_PATIENCE = 0.3


def stop_within_a_second() -> None:
    """Make Ctrl-C end this process within a second, with exit code 130, whatever library it is in.

    Python raises KeyboardInterrupt only when the interpreter runs again, and a call of a library can take far longer.
    So a thread waits for the signal's number, which Python writes as soon as the signal arrives. Ending the process
    loses nothing, because every output is first written to a temporary file or folder beside its target.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    descriptor, read = _wakeup_pipe() if os.name == "posix" else _wakeup_socket()
    signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)

    def watch() -> None:
        while number := read():
            if number[0] == signal.SIGINT:
                time.sleep(_PATIENCE)
                os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def _wakeup_pipe() -> tuple[int, Callable[[], bytes]]:
    """The descriptor to which Python writes the numbers of signals, and a function that waits for the next number."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return writing, lambda: os.read(reading, 1)


def _wakeup_socket() -> tuple[int, Callable[[], bytes]]:
    """``_wakeup_pipe`` for Windows, where Python writes the numbers only to a socket."""
    import socket

    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def read() -> bytes:
        # The number comes from a descriptor, so this function keeps the socket from being closed.
        return reading.recv(1) if writing.fileno() >= 0 else b""

    return writing.fileno(), read
