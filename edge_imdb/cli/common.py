"""What the commands share: options from dataclasses, a progress bar, and imports that may be missing."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from ..errors import MissingDependencyError, UsageError
from ..options import option
from ..runtime.bundle import find_bundle
from ..runtime.options import RuntimeOptions
from ..tasks import TASKS
from ..tasks.sentiment import options as tasks


@dataclass(frozen=True)
class ModelOptions(RuntimeOptions):
    """Which bundle a command opens, and what runs it. Unlike the library, a command looks in ./models/TASK too."""

    def location(self, task: str) -> str | os.PathLike[str] | None:
        """The folder or repository to open: that of --model, or ./models/TASK if nothing else was asked for."""
        path, reason = find_bundle(task, self.model, local=True)
        return path if reason == "./models" else self.model

    def folder(self, task: str, teachers: bool = False) -> str | os.PathLike[str] | None:
        """Like ``location``, for a job that needs the whole bundle: a repository is fetched to a folder first.

        With ``teachers`` a repository may also have a checkpoint of transformers instead of a bundle.
        """
        from ..runtime.hub import fetch_bundle, fetch_bundle_or_checkpoint, is_repository

        if isinstance(self.model, str) and is_repository(self.model):
            return (fetch_bundle_or_checkpoint if teachers else fetch_bundle)(self.model, task, self.revision)
        if self.revision is not None:
            raise UsageError(
                f"--revision is {self.revision}, but --model is not a Hub repository: leave --revision out."
            )
        return self.location(task)

    def open(self, task: str, **behaviour: Any) -> Any:
        """Open a bundle of ``task``; ``behaviour`` as for ``Task.open``. Raises the errors of the task's pipeline."""
        return TASKS[task].open(dataclasses.replace(self, model=self.location(task)), **behaviour)


@dataclass(frozen=True)
class ReviewOptions(tasks.ReviewOptions):
    """How reviews are read, and how many at a time."""

    workers: int = option(
        1,
        "Number of reviews to label at the same time, each on one thread. One per core gives the highest throughput.",
        least=1,
    )

    def open(self, task: str, options: ModelOptions) -> Any:
        """Open a bundle of ``task``. With several workers, a review gets one thread unless --threads says otherwise.

        Raises UsageError for an option that the task doesn't have, and the errors of the task's pipeline.
        """
        if self.workers > 1 and options.threads is None:
            options = dataclasses.replace(options, threads=1)
        behaviour = {}
        for field in dataclasses.fields(tasks.ReviewOptions):
            value = getattr(self, field.name)
            if TASKS[task].takes(field.name):
                behaviour[field.name] = value
            elif value != field.default:
                others = [other for other in TASKS if TASKS[other].takes(field.name)]
                flag = field.name.replace("_", "-")
                raise UsageError(f"--{flag} is for {' and '.join(others)}, and the task is {task}: leave it out.")
        return options.open(task, **behaviour)


def options_of(
    kind: type[Any], argument: str, leave_out: Collection[str] = (), only: Collection[str] | None = None
) -> Callable[..., Any]:
    """Add an option for each field of the dataclass ``kind``, with its default and its help.

    The command gets a ``kind`` in ``argument``. A field in ``leave_out``, or not in ``only``, has no option and keeps
    its default.
    """
    names = [
        field.name for field in fields_of(kind) if field.name not in leave_out and (only is None or field.name in only)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def grouped(**values: Any) -> None:
            values[argument] = kind(**{name: values.pop(name) for name in names})
            command(**values)

        decorated: Callable[..., None] = add_options(kind, names)(grouped)
        return decorated

    return decorate


def fields_of(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, in the order of its ``in_order``, if it has that."""
    return kind.in_order() if hasattr(kind, "in_order") else list(dataclasses.fields(kind))


def add_options(kind: type[Any], names: Collection[str]) -> Callable[..., Any]:
    """Add an option for each of these fields of the dataclass ``kind``. The command gets the values by name."""
    hints = typing.get_type_hints(kind)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for field in reversed(fields_of(kind)):
            if field.name in names:
                command = _option(field, hints[field.name])(command)
        return command

    return decorate


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[..., Any]:
    flag, metadata = "--" + field.name.replace("_", "-"), field.metadata
    kind = next((kind for kind in typing.get_args(hint) if kind is not types.NoneType), hint)
    if kind is bool:
        return click.option(flag, is_flag=True, help=metadata["help"])
    if any(typing.get_origin(part) is tuple for part in typing.get_args(hint)):
        return click.option(
            flag,
            multiple=True,
            default=() if field.default is None else (field.default,),
            show_default=field.default is not None,
            callback=_one_or_several,
            help=metadata["help"],
        )
    return click.option(
        flag,
        type=_type_of(kind, metadata),
        default=field.default,
        show_default=field.default is not None,
        metavar=metadata.get("metavar"),
        help=metadata["help"],
    )


def _type_of(kind: Any, metadata: Mapping[str, Any]) -> Any:
    least, most = metadata.get("least"), metadata.get("most")
    if metadata.get("choices"):
        return click.Choice(metadata["choices"])
    if least is None and most is None:
        return kind
    return (click.IntRange if kind is int else click.FloatRange)(least, most)


model_options = options_of(ModelOptions, "model_options")
# For a command that chooses the number of threads itself.
bundle_options = options_of(ModelOptions, "model_options", leave_out=("threads",))
review_options = options_of(ReviewOptions, "review_options", leave_out=("min_score",))


def _one_or_several(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """The value of an option that may be given several times: a str for one value, None for no value."""
    return values[0] if len(values) == 1 else values or None


def say(line: str) -> None:
    """Print a message for a person on standard error, apart from the output."""
    click.echo(line, err=True)


def progress_bar(items: Iterable[Any] | None, length: int, label: str, hidden: bool = False) -> Any:
    """A progress bar on standard error, shown only if that is a terminal. Without ``items`` the caller moves it."""
    return click.progressbar(
        items,
        length=length,
        label=label,
        file=sys.stderr,
        hidden=hidden or not sys.stderr.isatty(),
        show_pos=items is not None,
    )


def import_extra(name: str, extra: str) -> Any:
    """Import a module of ``train``, ``export`` or ``serve``; if a package is missing, the error names the extra."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "edge_imdb":
            raise
        if missing == "onnxruntime":
            from ..runtime.session import runtime

            runtime()
        extra = _extra_of(missing, extra)
        raise MissingDependencyError(
            f"This needs {error.name}, which is not installed: pip install 'edge-imdb[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')."
        ) from error


def _extra_of(module: str, extra: str) -> str:
    """The extra that installs ``module`` by our own metadata: ``extra`` if it does, or else another one."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("edge-imdb") or []
    except PackageNotFoundError:
        return extra
    found = [
        match[1]
        for line in lines
        if re.match(r"[\w.-]+", line)[0].replace("-", "_") == module  # type: ignore[index]
        and (match := re.search(r"extra == ['\"]([\w-]+)", line))
    ]
    return extra if extra in found or not found else found[0]
