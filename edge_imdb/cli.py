"""main: the command edge-imdb. Errors become one sentence here, and nowhere else."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__
from .bundle import TASKS, find_bundle, open_bundle
from .defaults import DATA, TARGETS
from .errors import EdgeImdbError, InputError, MissingDependencyError, UsageError

if TYPE_CHECKING:
    from .sentiment import Sentiment

# Seconds from Ctrl-C to the end, where the command doesn't end by itself.
_PATIENCE = 0.3
EXPORT_TASKS = (*TASKS, "all")
EXPORT_TARGETS = ("auto", *TARGETS)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _stop_within_a_second()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Review text may hold any character, whatever the locale.
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
        # Everything is unwound; taking PyTorch down takes another second.
        os._exit(130)
    except BrokenPipeError:
        # The reader has what it wanted, as `| head -1` does. The interpreter's own flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        # What no command foresaw: standard output on a full disk, say.
        if error.errno is None:
            raise
        named = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"Error: {named}{error.strerror}: check the disk's space and permissions, then try again.", err=True)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _close_bars() -> None:
    """End the lines of progress bars that an error left open."""
    if "tqdm.std" in sys.modules:
        bars = sys.modules["tqdm.std"].tqdm._instances
        for bar in list(bars):
            bar.close()


def _stop_within_a_second() -> None:
    """Have Ctrl-C end this process with 130 in good time, whatever library it is in.

    Python raises KeyboardInterrupt only where its own code goes on; a tracer or a large matrix product may take far
    longer. The signal's number comes through a pipe at once, to a thread. What is written is written to temporary
    siblings, so nothing is lost by ending there.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if os.name != "posix" or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(reading, 1):
            if number[0] == signal.SIGINT:
                time.sleep(_PATIENCE)
                os._exit(130)

    threading.Thread(target=watch, daemon=True).start()


def say(line: str) -> None:
    """Print what a person should know, beside the output."""
    click.echo(line, err=True)


class _Commands(click.Group):
    """The commands, of which ``train`` with its many options is only made where it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), "train"])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name == "train":
            from .cli_train import train

            return train
        return super().get_command(context, name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge-imdb")
def cli() -> None:
    """Film talk on small devices: sentiment of reviews, and words for [MASK], without PyTorch.

    \b
    edge-imdb predict "great film"
    edge-imdb fill "This is a great [MASK]!"
    edge-imdb train
    edge-imdb export --quantize
    """


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in (
        click.option(
            "--threads", type=click.IntRange(min=1), help="Threads on one text.  [default: one a physical core]"
        ),
        click.option(
            "--provider", default="auto", show_default=True, help="auto, cpu, cuda, or another that is installed."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "int8", "fp32"]),
            default="auto",
            show_default=True,
            help="Which graph of the bundle; auto is int8 on a CPU.",
        ),
        click.option(
            "--model", type=click.Path(path_type=Path), help="Folder of a bundle.  [default: see edge-imdb info]"
        ),
    ):
        command = decorate(command)
    return command


def _reading_options(command: Callable[..., None]) -> Callable[..., None]:
    exact = click.option("--exact", is_flag=True, help="Read on even where the first part makes sure enough.")
    windows = click.option("--windows", is_flag=True, help="Read the whole of a long review, in windows, and average.")
    workers = click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Reviews at a time, with a thread each: as many as there are cores for the most reviews a second.",
    )
    return exact(windows(workers(command)))


def _open_sentiment(
    model: Path | None,
    precision: str,
    provider: str,
    threads: int | None,
    exact: bool,
    windows: bool,
    workers: int,
) -> Sentiment:
    from .sentiment import Sentiment

    if threads is None and workers > 1:
        threads = 1
    return Sentiment(model, precision=precision, provider=provider, threads=threads, exact=exact, windows=windows)


@cli.command()
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--file", "file", type=click.Path(path_type=Path), help="Reviews: one a line, or .csv, .jsonl, .parquet.")
@click.option("--column", default="text", show_default=True, help="Column of the reviews in --file.")
@click.option("--skip-blank", is_flag=True, help="Pass over blank reviews instead of stopping at one.")
@click.option("--json", "as_json", is_flag=True, help='Print {"text", "label", "score"} a line.')
@_reading_options
@_model_options
def predict(
    texts: tuple[str, ...],
    file: Path | None,
    column: str,
    skip_blank: bool,
    as_json: bool,
    exact: bool,
    windows: bool,
    workers: int,
    model: Path | None,
    precision: str,
    provider: str,
    threads: int | None,
) -> None:
    """Label reviews: a line each, label and calibrated score, in the order given.

    \b
    edge-imdb predict "great film"
    edge-imdb predict --file reviews.csv --column review --json
    cat reviews.txt | edge-imdb predict -
    """
    _check_source(texts, file, 'edge-imdb predict "great film"')
    rows = _rows(texts, file, column)
    if file is not None:
        # A first pass over the file, which costs next to nothing beside inference: a mistake in its last line is told
        # before the first is labelled, and the bar knows the whole.
        count = sum(1 for _ in _filled(rows, skip_blank, ()))
        rows = _rows(texts, file, column)
    else:
        count = len(texts)
        if texts != ("-",):
            list(_filled(rows, skip_blank, texts))
    sentiment = _open_sentiment(model, precision, provider, threads, exact, windows, workers)
    with _bar(_filled(rows, skip_blank, texts), count, "predict", hidden=file is None or sys.stdout.isatty()) as bar:
        read, echoed = itertools.tee(bar)
        for best, text in zip(sentiment.stream(read, workers), echoed, strict=True):
            if as_json:
                line = json.dumps({"text": text, **best}, ensure_ascii=False)
            else:
                line = f"{best['label']}\t{best['score']:.4f}"
            # Flushed line by line: whoever reads along gets each label as it comes.
            click.echo(line)


@cli.command()
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Words for each mask.")
@click.option("--targets", help="Choose among these words alone, separated by commas.")
@click.option("--joint", is_flag=True, help="Fill several masks with each other in view, and print whole sentences.")
@click.option(
    "--beams",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Candidates that --joint keeps at a mask.",
)
@click.option("--file", "file", type=click.Path(path_type=Path), help="Texts: one a line, or .csv, .jsonl, .parquet.")
@click.option("--column", default="text", show_default=True, help="Column of the texts in --file.")
@click.option(
    "--json", "as_json", is_flag=True, help='Print {"text", "fills"} a line, fills as the pipeline gives them.'
)
@_model_options
def fill(
    texts: tuple[str, ...],
    top_k: int,
    targets: str | None,
    joint: bool,
    beams: int,
    file: Path | None,
    column: str,
    as_json: bool,
    model: Path | None,
    precision: str,
    provider: str,
    threads: int | None,
) -> None:
    """Fill [MASK]: for one mask a line each, sentence and score, best first.

    For several masks a line is the number of the mask, the word and the score; with --joint it is a whole sentence, and
    its score the pseudo-log-likelihood of the words in it, in nats.

    \b
    edge-imdb fill "This is a great [MASK]!"
    edge-imdb fill "A [MASK] plot." --targets thin,clever
    edge-imdb fill "[MASK] [MASK] gave the performance of his life." --joint
    """
    _check_source(texts, file, 'edge-imdb fill "This is a great [MASK]!"')
    from .fill_mask import FillMask

    words = None if targets is None else [word.strip() for word in targets.split(",") if word.strip()]
    fill_mask = FillMask(model, precision=precision, provider=provider, threads=threads)
    for place, text in _rows(texts, file, column):
        try:
            result = fill_mask(text, top_k=top_k, targets=words, joint=joint, beams=beams)
        except InputError as error:
            # The one text of a command line needs no name.
            raise error if place == "The text" else InputError(f"{place}: {error}") from None
        if as_json:
            click.echo(json.dumps({"text": text, "fills": result}, ensure_ascii=False))
        elif isinstance(result[0], dict):
            for entry in result:
                click.echo(f"{entry['sequence']}\t{entry['score']:.4f}")
        else:
            for number, entries in enumerate(result, 1):
                for entry in entries:
                    click.echo(f"{number}\t{entry['token_str']}\t{entry['score']:.4f}")


def _check_source(texts: tuple[str, ...], file: Path | None, example: str) -> None:
    if file is not None and texts:
        raise UsageError("Give texts or --file, not both.")
    if file is None and not texts:
        raise UsageError(f"Give a text, as in {example}, or --file, or - for standard input.")
    if "-" in texts and len(texts) > 1:
        raise UsageError("- reads the texts from standard input: give no other text beside it.")


def _rows(texts: tuple[str, ...], file: Path | None, column: str) -> Iterable[tuple[str, str]]:
    if file is not None:
        from .reading import iter_texts

        return iter_texts(file, column)
    if texts == ("-",):
        from .reading import iter_lines

        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # type: ignore[union-attr]
        return _not_empty(iter_lines(sys.stdin, "standard input"))
    return [(f"text {number}" if len(texts) > 1 else "The text", text) for number, text in enumerate(texts, 1)]


def _not_empty(rows: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError("Standard input is empty: pipe at least one text into it, one a line.")


def _filled(rows: Iterable[tuple[str, str]], skip_blank: bool, texts: tuple[str, ...]) -> Iterator[str]:
    from .text import clean

    kind = UsageError if texts and texts != ("-",) else InputError
    for place, text in rows:
        if clean(text):
            yield text
        elif not skip_blank:
            raise kind(f"{place} is blank: give a review with visible characters, or --skip-blank to pass over it.")


def _bar(items: Iterable[Any], length: int, label: str, hidden: bool = False) -> Any:
    """A progress bar on standard error, where that is a terminal."""
    return click.progressbar(
        items, length=length, label=label, file=sys.stderr, hidden=hidden or not sys.stderr.isatty(), show_pos=True
    )


@cli.command()
@click.argument("task", type=click.Choice(TASKS), default="sentiment")
@click.option("--data", default=DATA, show_default=True, help="Hub id, folder, or .csv, .jsonl, .parquet file.")
@click.option("--split", default="test", show_default=True, help="Split of --data; a file has only one.")
@click.option("--text-column", default="text", show_default=True, help="Column of the reviews.")
@click.option("--label-column", default="label", show_default=True, help="Column of the labels.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many reviews, drawn with a fixed seed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_reading_options
@_model_options
def evaluate(
    task: str,
    data: str,
    split: str,
    text_column: str,
    label_column: str,
    limit: int | None,
    as_json: bool,
    exact: bool,
    windows: bool,
    workers: int,
    model: Path | None,
    precision: str,
    provider: str,
    threads: int | None,
) -> None:
    """Measure a bundle on the reviews of a split.

    For sentiment: accuracy, F1, log loss, calibration error, reviews a second. For fill-mask, which needs no labels:
    perplexity, top-1 and top-5 accuracy on whole words masked with a fixed seed, chunks of 256 tokens a second.

    \b
    edge-imdb evaluate sentiment --data stanfordnlp/imdb --split test
    edge-imdb evaluate fill-mask --data stanfordnlp/imdb --split test
    edge-imdb evaluate sentiment --data reviews.csv --model models/sentiment
    """
    if task == "fill-mask":
        if exact or windows or workers > 1:
            raise UsageError("--exact, --windows and --workers are for sentiment: leave them out.")
        _evaluate_fill_mask(data, split, text_column, limit, as_json, model, precision, provider, threads)
        return
    from .evaluation import evaluate_sentiment
    from .reading import read_reviews
    from .splits import sample

    sentiment = _open_sentiment(model, precision, provider, threads, exact, windows, workers)
    reviews = read_reviews(data, split, text_column, label_column, names=sentiment.labels)
    if limit is not None:
        reviews = reviews.take(sample(reviews.texts, limit, seed=0))
    count = len(reviews.texts)
    with _bar(reviews.texts, count, "evaluate") as bar:
        figures = evaluate_sentiment(sentiment, reviews, bar, workers)
    if as_json:
        click.echo(json.dumps({"precision": sentiment.precision, "provider": sentiment.provider, **figures}))
        return
    click.echo(f"bundle              {sentiment.bundle.path.name} ({sentiment.reason}), {sentiment.precision}")
    click.echo(f"reviews             {figures['reviews']}")
    click.echo(f"accuracy            {100 * figures['accuracy']:.2f} %")
    click.echo(f"F1 (macro)          {100 * figures['f1']:.2f} %")
    click.echo(f"log loss            {figures['log_loss']:.4f} nats")
    click.echo(f"calibration error   {100 * figures['calibration_error']:.2f} %")
    click.echo(f"reviews per second  {figures['reviews_per_second']:.1f}")


def _evaluate_fill_mask(
    data: str,
    split: str,
    text_column: str,
    limit: int | None,
    as_json: bool,
    model: Path | None,
    precision: str,
    provider: str,
    threads: int | None,
) -> None:
    from .evaluation import evaluate_fill_mask
    from .fill_mask import FillMask
    from .reading import read_texts
    from .splits import sample

    fill_mask = FillMask(model, precision=precision, provider=provider, threads=threads)
    texts = read_texts(data, split, text_column)
    if limit is not None:
        texts = [texts[i] for i in sample(texts, limit, seed=0)]

    def progress(rows: range) -> Iterator[int]:
        with _bar(rows, len(rows), "evaluate") as bar:
            yield from bar

    figures = evaluate_fill_mask(fill_mask, texts, progress)
    if as_json:
        click.echo(json.dumps({"precision": fill_mask.precision, "provider": fill_mask.provider, **figures}))
        return
    click.echo(f"bundle             {fill_mask.bundle.path.name} ({fill_mask.reason}), {fill_mask.precision}")
    click.echo(f"texts              {len(texts)}, in {figures['chunks']} chunks")
    click.echo(f"masked tokens      {figures['tokens']}")
    click.echo(f"perplexity         {figures['perplexity']:.2f}")
    click.echo(f"top-1 accuracy     {100 * figures['top1']:.2f} %")
    click.echo(f"top-5 accuracy     {100 * figures['top5']:.2f} %")
    click.echo(f"chunks per second  {figures['chunks_per_second']:.1f}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, execution providers, and which bundle each task uses, and why.

    A command takes --model, else $EDGE_IMDB_MODELS/TASK, else ./models/TASK where it exists, else the embedded bundle.
    """
    from .session import available_providers, choose_provider, runtime

    record: dict[str, Any] = {"edge-imdb": __version__, "python": platform.python_version()}
    try:
        record["onnxruntime"] = runtime().__version__
        record["providers"] = available_providers()
        record["auto"] = choose_provider("auto")
    except MissingDependencyError as error:
        record["onnxruntime"] = str(error)
    record["bundles"] = {}
    for task in TASKS:
        path, why = find_bundle(task)
        entry: dict[str, Any] = {"path": str(path), "why": why}
        try:
            bundle = open_bundle(path, task)
            if bundle.labels:
                entry["labels"] = bundle.labels
            entry["bytes"] = sum(file["bytes"] for file in bundle.files.values())
            entry["graphs"] = sorted(bundle.graphs)
            entry["quantization"] = bundle.quantization
            entry["metrics"] = bundle.metrics
        except EdgeImdbError as error:
            entry["error"] = str(error)
        record["bundles"][task] = entry
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(f"edge-imdb {__version__}, Python {record['python']}")
    if "providers" in record:
        click.echo(
            f"ONNX Runtime {record['onnxruntime']}: {', '.join(record['providers'])}; auto takes {record['auto']}"
        )
    else:
        click.echo(record["onnxruntime"])
    for task, entry in record["bundles"].items():
        click.echo(f"{task}: {entry['path']} ({entry['why']})")
        if "error" in entry:
            click.echo(f"  {entry['error']}")
            continue
        labels = f"labels {', '.join(entry['labels'])}; " if "labels" in entry else ""
        click.echo(f"  {labels}{entry['bytes'] / 2**20:.1f} MiB; {', '.join(entry['graphs'])}")
        for name, value in entry["metrics"].items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            shown = ", ".join(f"{k} {v:.4g}".strip() if v < 1e4 else f"{k} {v:.0f}" for k, v in pairs)
            click.echo(f"  {name}: {shown}")


def workshop(name: str, extra: str) -> Any:
    """Import one of the workshops, or say which extra installs what it needs."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edge_imdb"):
            raise
        raise MissingDependencyError(
            f"This needs {error.name}, which is not installed: pip install 'edge-imdb[{extra}]' "
            f"(in a clone: pip install '.[{extra}]')."
        ) from error


@cli.command()
@click.argument("task", type=click.Choice(EXPORT_TASKS), default="all")
@click.option("--quantize", is_flag=True, help="Add the int8 graph, which is what runs on a CPU.")
@click.option("--from", "source", default="runs", show_default=True, help="Folder of finished runs.")
@click.option("--to", "target", default="models", show_default=True, help="Folder of bundles.")
@click.option(
    "--max-drop",
    type=float,
    default=0.5,
    show_default=True,
    help="Sentiment: points of validation accuracy int8 may lose to fp32.",
)
@click.option(
    "--max-rise",
    type=float,
    default=3.0,
    show_default=True,
    help="Fill-mask: per cent by which int8 may raise fp32's perplexity on validation.",
)
@click.option(
    "--target",
    "target_cpu",
    type=click.Choice(EXPORT_TARGETS),
    default="portable",
    show_default=True,
    help="CPU that int8 is for: portable and avx2 have weights of 7 bits, whose products overflow on no CPU; the "
    "others 8 bits, a little closer to fp32, and wrong scores on an x86 CPU without VNNI; auto is this machine's.",
)
@click.option("--data", help="Training reviews, where they moved since the run.  [default: as the run's]")
@click.option("--no-fp32", is_flag=True, help="Leave the fp32 graph out of the bundle.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def export(
    task: str,
    quantize: bool,
    source: str,
    target: str,
    max_drop: float,
    max_rise: float,
    target_cpu: str,
    data: str | None,
    no_fp32: bool,
    overwrite: bool,
) -> None:
    """Turn finished runs into bundles: ONNX graphs with all that the runtime needs, written in one step.

    The fp32 graph must equal PyTorch's logits to 1e-4, and on the held-out validation reviews int8 may lose at most
    --max-drop points of accuracy, or raise perplexity by at most --max-rise per cent; else nothing is written. Without
    a task: every task that has a finished run.

    \b
    edge-imdb export --quantize
    edge-imdb export sentiment --quantize --from runs --to models
    """
    if no_fp32 and not quantize:
        raise UsageError("--no-fp32 leaves no graph without --quantize: give both.")
    tasks: tuple[str, ...] = (task,)
    if task == "all":
        finished = [name for name in TASKS if (Path(source) / name).is_dir()]
        for name in TASKS:
            if finished and name not in finished:
                say(f"no finished run in {Path(source) / name}: {name} is left out")
        tasks = tuple(finished) or TASKS
    limits = {"sentiment": {"max_drop": max_drop}, "fill-mask": {"max_rise": max_rise}}
    for name in tasks:
        module = name.replace("-", "_")
        exporter = workshop(f"edge_imdb.export.{module}", "export")
        getattr(exporter, f"export_{module}")(
            Path(source) / name,
            Path(target) / name,
            quantize=quantize,
            target_cpu=target_cpu,
            data=data,
            keep_fp32=not no_fp32,
            overwrite=overwrite,
            say=say,
            **limits[name],
        )
