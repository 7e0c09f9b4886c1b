"""main: the command edge-imdb. Errors become one sentence here, and nowhere else."""

from __future__ import annotations

import contextlib
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
COMMANDS = ("evaluate", "explain", "export", "fill", "info", "predict", "push", "score", "serve", "train", "web")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # First of all, since whatever is opened before would take a closed stream's number.
    _open_standard_streams()
    stop_within_a_second()
    # Ours alone in this process, whoever imports ONNX Runtime first. See session.py.
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
        _close_bars()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Everything is unwound by now. A normal exit would wait another second for PyTorch to shut down.
        os._exit(130)
    except (BrokenPipeError, _ReaderGone):
        # The reader has closed the pipe, as `| head -1` does. The interpreter's own flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        # An error that no command expected, such as standard output on a full disk.
        if error.errno is None:
            raise
        named = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"Error: {named}{error.strerror}: check the disk's space and permissions, then try again.", err=True)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


class _ReaderGone(Exception):
    """The reader of standard output has closed the pipe. click ends a command with 1 on a BrokenPipeError it sees."""


class _Closed(io.TextIOBase):
    """Standard output that was closed before the start, as by `>&-`: fine for a command that prints nothing."""

    def write(self, text: str) -> int:
        raise OutputError("Standard output is closed: redirect it to a file or a pipe.")


def _open_standard_streams() -> None:
    """Replace a closed standard stream, which is None in Python, with something that can be used.

    Its descriptor too: the next file to be opened would get its number, and whatever a library prints.
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
    except BrokenPipeError as error:
        raise _ReaderGone from error


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
