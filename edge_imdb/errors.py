"""The exceptions that edge-imdb raises deliberately. Each message is one sentence for a person; the CLI prints it.

Each class also derives from the built-in exception that transformers, optimum and huggingface_hub raise in the same
situation. So an ``except ValueError`` or ``except OSError`` written for those libraries catches ours as well:

>>> from edge_imdb import Sentiment
>>> try:
...     Sentiment()("great film", top_k=0)
... except ValueError as error:
...     print(error)
top_k is 0: it must be a whole number, 1 or more.
"""

from __future__ import annotations

import inspect
import sys


class EdgeImdbError(Exception):
    """The base class. ``exit_code`` is the exit code of the command line: 2 for wrong usage, otherwise 1."""

    exit_code = 1


class UsageError(EdgeImdbError, ValueError):
    """A wrong argument: a value that is out of range, or options that exclude each other. A ValueError."""

    exit_code = 2


class InputError(EdgeImdbError, ValueError):
    """An unusable text or file of texts: blank, missing, not UTF-8, or without the column. A ValueError."""


class BlankError(InputError):
    """A text without a single token."""


class DataError(EdgeImdbError, ValueError):
    """Unusable training or evaluation data: a single class, an unknown label, an empty split. A ValueError."""


class SplitError(DataError):
    """The data set lacks the requested split, or the split has no labels."""


class BaseModelError(EdgeImdbError, ValueError):
    """The checkpoint to start from can't be read, or its architecture can't be trained here. A ValueError."""


class DivergedError(EdgeImdbError, ArithmeticError):
    """A training has diverged: its loss is not a finite number any more. An ArithmeticError."""


class BundleError(EdgeImdbError, OSError):
    """A bundle or a run folder is missing, incomplete, altered, or of the wrong kind. An OSError."""


class OutputError(EdgeImdbError):
    """The output folder can't be written, or contains files that would be lost."""


class HubError(EdgeImdbError, OSError):
    """The Hugging Face Hub can't be reached, or lacks the requested file. An OSError."""


class MissingDependencyError(EdgeImdbError, ImportError):
    """A package of an extra isn't installed. An ImportError."""


class ProviderError(EdgeImdbError, ValueError):
    """The installed ONNX Runtime lacks the requested execution provider. A ValueError."""


class GateError(EdgeImdbError):
    """An exported graph deviates from its source by more than the allowed amount, so nothing was written."""


def first_line(error: BaseException) -> str:
    """The first line of a library's exception without its final full stop, or the exception's type if it is empty.

    >>> first_line(ValueError("no such column.\\nSee the documentation."))
    'no such column'
    >>> first_line(KeyError())
    'KeyError'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def raised_by(error: BaseException, *packages: str) -> bool:
    """Whether a library that we called raised ``error`` itself, so that it may be translated into one of our errors.

    ``packages`` are the top-level packages whose exception classes the library uses, besides Python's own; without any,
    every class counts. False for our own errors; for KeyboardInterrupt and SystemExit; for MemoryError, which is not
    about a file; and for what a signal handler raised while the library ran, such as a time limit (SIGALRM, Celery's
    SoftTimeLimitExceeded). The caller must raise those again.

    >>> raised_by(ValueError("bad data"), "onnxruntime")
    True
    >>> raised_by(KeyboardInterrupt(), "onnxruntime")
    False
    """
    if isinstance(error, (EdgeImdbError, MemoryError)) or _raised_by_signal_handler(error):
        return False
    package = type(error).__module__.partition(".")[0]
    if package == "builtins" or package in sys.stdlib_module_names:
        return isinstance(error, Exception)
    return not packages or package in packages


def _raised_by_signal_handler(error: BaseException) -> bool:
    """Whether a function in the traceback was called as a signal handler is: with the frame that it interrupted."""
    entry = error.__traceback__
    while entry is not None:
        frame = entry.tb_frame
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS)]
        for value in [frame.f_locals.get(name) for name in names]:
            arguments = value if isinstance(value, tuple) else (value,)
            if frame.f_back is not None and any(argument is frame.f_back for argument in arguments):
                return True
        entry = entry.tb_next
    return False
