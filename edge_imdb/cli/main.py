"""main: the command edge-imdb. Errors become one sentence here, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import EdgeImdbError, OutputError
from .signals import stop_within_a_second

# Each command is in the module of the same name, which is imported only to run it or to show its help.
COMMANDS = (
    "distil",
    "evaluate",
    "explain",
    "export",
    "fill",
    "info",
    "predict",
    "push",
    "score",
    "serve",
    "train",
    "web",
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # This comes first, because the next file to be opened would get the descriptor of a closed stream.
    _open_standard_streams()
    stop_within_a_second()
    # Set here too, in case another library imports ONNX Runtime before session.py does.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A review may contain any character, whatever the locale.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        cli.main(arguments, prog_name="edge-imdb", standalone_mode=False)
        sys.stdout.flush()
        code = 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except EdgeImdbError as error:
        _close_bars()
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _exit_interrupted()
    except _ReaderGone:
        code = _end_output()
    except OSError as error:
        if _reader_is_gone(error):
            sys.exit(_end_output())
        # An error that no command expected, such as standard output on a full disk.
        if error.errno is None:
            raise
        named = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"Error: {named}{error.strerror}: check the disk's space and permissions, then try again.", err=True)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        # A library may fail while Ctrl-C unwinds it.
        if not _follows_interrupt(error):
            raise
        _exit_interrupted()
    sys.exit(code)


def _exit_interrupted() -> NoReturn:
    with contextlib.suppress(Exception):
        # Ctrl-C may have come while a bar was being drawn.
        _close_bars()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    # Everything is unwound by now. A normal exit would wait another second for PyTorch to shut down.
    os._exit(130)


def _follows_interrupt(error: BaseException) -> bool:
    """Whether ``error`` was raised while a KeyboardInterrupt was being handled."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, KeyboardInterrupt):
            return True
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return False


class _ReaderGone(Exception):
    """The reader of standard output has closed the pipe.

    It replaces the BrokenPipeError before click sees it, because click would end the command with exit code 1.
    """


def _reader_is_gone(error: OSError) -> bool:
    """Whether an error says that the reader of standard output has closed the pipe. Windows then says EINVAL."""
    if isinstance(error, BrokenPipeError):
        return True
    return os.name == "nt" and error.errno == errno.EINVAL and error.filename is None


def _end_output() -> int:
    """The exit code after the reader has closed the pipe, as `| head -1` does: 128 plus the number of SIGPIPE."""
    # The interpreter flushes standard output at its end, which must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + getattr(signal, "SIGPIPE", 13)


class _Closed(io.TextIOBase):
    """Stands in for a standard output that was closed before the start, as by `>&-`. Only writing to it is an error."""

    def write(self, text: str) -> int:
        raise OutputError("Standard output is closed: redirect it to a file or a pipe.")


def _open_standard_streams() -> None:
    """Replace closed standard streams, which Python sets to None, and occupy their descriptors.

    Otherwise the next file to be opened would get such a descriptor, and a library would print into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _close_bars() -> None:
    """Close the progress bars that an error left open."""
    if "tqdm.std" in sys.modules:
        bars = sys.modules["tqdm.std"].tqdm._instances
        for bar in list(bars):
            bar.close()


@contextlib.contextmanager
def _seen_before_click() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if _reader_is_gone(error):
            raise _ReaderGone from error
        raise


class _Commands(click.Group):
    """The commands, each imported only when it is needed."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _seen_before_click():
            return super().make_context(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        with _seen_before_click():
            return super().invoke(context)

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f".{name}", __package__), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge-imdb")
def cli() -> None:
    """Label the sentiment of film reviews and fill in masked words, on small devices, without PyTorch.

    \b
    edge-imdb predict "great film"
    edge-imdb fill "This is a great [MASK]!"
    edge-imdb train
    edge-imdb export --quantize
    """
