"""The errors that edge-imdb raises on purpose. Each has one sentence for a person, which the command line prints."""

from __future__ import annotations


class EdgeImdbError(Exception):
    """Base of all errors. ``exit_code`` is the exit code of the command line: 2 for wrong usage, 1 otherwise."""

    exit_code = 1


class UsageError(EdgeImdbError):
    """The call itself is wrong: a value out of range, options that exclude each other."""

    exit_code = 2


class InputError(EdgeImdbError):
    """A text or a file of texts can't be used: blank, missing, not UTF-8, without the column."""


class BlankError(InputError):
    """Nothing is left of a text for the tokenizer."""


class DataError(EdgeImdbError):
    """Training or evaluation data can't be used: one class only, an unknown label, an empty split."""


class SplitError(DataError):
    """The data set doesn't have the split that was asked for, or no labels in it."""


class BaseModelError(EdgeImdbError):
    """The checkpoint to start from is not a BERT, or can't be turned into a DistilBERT."""


class BundleError(EdgeImdbError):
    """A bundle or a run folder is missing, incomplete, altered, or of the wrong kind."""


class OutputError(EdgeImdbError):
    """The output folder can't be written, or holds something that would be lost."""


class HubError(EdgeImdbError):
    """The Hugging Face Hub can't be reached, or doesn't have what was asked for."""


class MissingDependencyError(EdgeImdbError):
    """A package of an extra isn't installed."""


class ProviderError(EdgeImdbError):
    """The execution provider asked for isn't available in the installed ONNX Runtime."""


class GateError(EdgeImdbError):
    """An exported graph differs from its source by more than allowed, so nothing was written."""


def first_line(error: BaseException) -> str:
    """The first line of what a library raised, without its final full stop; the error's type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
