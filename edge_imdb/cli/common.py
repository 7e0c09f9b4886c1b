"""What several commands share: the options that open a model, a progress bar, and imports that may be missing."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import MissingDependencyError, UsageError
from ..runtime.bundle import find_bundle

if TYPE_CHECKING:
    from ..tasks.fill_mask.pipeline import FillMask
    from ..tasks.sentiment.pipeline import Sentiment


EXACT = click.option(
    "--exact", is_flag=True, help="Do all the work: read the whole review, never stop early, drop no tokens."
)
MIN_SCORE = click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help='Print "unsure" instead of a label with a lower score.',
)
SLIDING_WINDOWS = click.option(
    "--sliding-windows",
    is_flag=True,
    help="Read a long review to its end, one window after another, and average the logits.",
)


@dataclass(frozen=True)
class ModelOptions:
    """Which bundle a command opens, and how it runs."""

    model: str | None
    revision: str | None
    precision: str
    provider: str
    threads: int | None = None

    def place(self, task: str) -> str | Path | None:
        """The folder or repository to open: that of --model, or ./models/TASK if nothing else was asked for."""
        path, reason = find_bundle(task, self.model, local=True)
        return path if reason == "./models" else self.model

    def folder(self, task: str) -> str | Path | None:
        """Like ``place``, for a job that needs the whole bundle: a repository is fetched, and its folder returned."""
        from ..runtime.hub import fetch_bundle, is_repository

        if self.model is not None and is_repository(self.model):
            return fetch_bundle(self.model, task, self.revision)
        if self.revision is not None:
            raise UsageError(
                f"--revision is {self.revision}, but --model is not a Hub repository: leave --revision out."
            )
        return self.place(task)

    def fill_mask(self) -> FillMask:
        """Open a fill-mask bundle. Raises the errors of FillMask."""
        from ..tasks.fill_mask.pipeline import FillMask

        return FillMask(
            self.place("fill-mask"),
            revision=self.revision,
            precision=self.precision,
            provider=self.provider,
            threads=self.threads,
        )


@dataclass(frozen=True)
class ReviewOptions:
    """How reviews are read: how many at a time, and whether with an early exit or in sliding windows."""

    exact: bool
    sliding_windows: bool
    workers: int

    def sentiment(self, options: ModelOptions, min_score: float = 0.0) -> Sentiment:
        """Open a sentiment bundle. Raises the errors of Sentiment."""
        from ..tasks.sentiment.pipeline import Sentiment

        threads = 1 if options.threads is None and self.workers > 1 else options.threads
        return Sentiment(
            options.place("sentiment"),
            revision=options.revision,
            precision=options.precision,
            provider=options.provider,
            threads=threads,
            exact=self.exact,
            sliding_windows=self.sliding_windows,
            min_score=min_score,
        )


_BUNDLE = [
    click.option(
        "--model",
        metavar="BUNDLE",
        help="Folder of the bundle to use, or its name on the Hub, user/repo.  [default: see edge-imdb info]",
    ),
    click.option("--revision", help="Branch, tag or commit of a bundle on the Hub.  [default: main branch]"),
    click.option(
        "--precision",
        type=click.Choice(["auto", "int8", "fp32"]),
        default="auto",
        show_default=True,
        help="Which graph of the bundle to run; auto means int8 on a CPU.",
    ),
    click.option(
        "--provider",
        default="auto",
        show_default=True,
        help="Execution provider: auto, cpu, cuda, or another that is installed.",
    ),
]
_THREADS = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of threads per text.  [default: one per physical core available]",
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ModelOptions; the command gets them in one argument, ``model_options``."""
    return _grouped(command, "model_options", ModelOptions, [*_BUNDLE, _THREADS])


def bundle_options(command: Callable[..., None]) -> Callable[..., None]:
    """Like ``model_options`` without --threads, for a command that chooses the number itself."""
    return _grouped(command, "model_options", ModelOptions, _BUNDLE)


def review_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ReviewOptions; the command gets them in one argument, ``review_options``."""
    return _grouped(
        command,
        "review_options",
        ReviewOptions,
        [
            EXACT,
            SLIDING_WINDOWS,
            click.option(
                "--workers",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="Number of reviews to label at the same time, each on one thread. One per core gives the highest "
                "throughput.",
            ),
        ],
    )


def _grouped(
    command: Callable[..., None], name: str, kind: type[Any], options: list[Callable[[Any], Any]]
) -> Callable[..., None]:
    """Add ``options`` to ``command``, which gets their values as a ``kind``, a dataclass, in the argument ``name``.

    A field that has no option keeps its default.
    """

    @functools.wraps(command)
    def grouped(**values: Any) -> None:
        values[name] = kind(**{field: values.pop(field) for field in kind.__dataclass_fields__ if field in values})
        command(**values)

    decorated: Callable[..., None] = grouped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def dataclass_options(fields: Iterable[dataclasses.Field[Any]], hints: dict[str, Any]) -> Callable[..., Any]:
    """An option for each of ``fields`` of a dataclass, with its default and its help; ``hints`` are their types."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for field in reversed(list(fields)):
            flag, text, choices = "--" + field.name.replace("_", "-"), field.metadata["help"], field.metadata["choices"]
            hint = hints[field.name]
            kind = next((kind for kind in typing.get_args(hint) if kind is not types.NoneType), hint)
            if kind is bool:
                option = click.option(flag, is_flag=True, help=text)
            elif any(typing.get_origin(part) is tuple for part in typing.get_args(hint)):
                option = click.option(
                    flag,
                    multiple=True,
                    default=() if field.default is None else (field.default,),
                    show_default=field.default is not None,
                    callback=_one_or_several,
                    help=text,
                )
            else:
                option = click.option(
                    flag,
                    type=click.Choice(choices) if choices else kind,
                    default=field.default,
                    show_default=field.default is not None,
                    help=text,
                )
            command = option(command)
        return command

    return decorate


def _one_or_several(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:
    """What an option that may be given several times gave: a str where it was given once, None where it was not."""
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
    """The extra that installs ``module``: ``extra`` or another one, by what our own distribution says of itself."""
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
