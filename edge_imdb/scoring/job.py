"""score and status: the plan, the missing parts, and the reports on progress."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Unpack

from ..data.tables import COMPRESSIONS, PREFIX, extensions, require
from ..errors import InputError, OutputError, UsageError
from ..runtime.session import usable_cores
from ..tasks import DEFAULT_TASK
from . import formats
from . import job_record as manifest
from .inputs import Block, Reader, Source, find_inputs, schema_of, survey
from .job_record import Manifest
from .labels import Labeller, Options, Outcome, with_outcomes
from .local import Local
from .options import JobOptions, ScoreArguments, sort_arguments
from .storage import File, Store, alive, base_name, exists, host, is_stream, is_url, open_store, spooled, trimmed
from .teacher import TeacherLabeller, open_labeller

PARTS_SUFFIX = ".parts"
_PROGRESS = "_progress.json"
# Seconds between two reports, seconds over which the rate is averaged, and seconds after which a silent job is dead.
_TICK = 0.5
_SPAN = 30.0
_STILL = 15.0
# An extension that names a kind of file, and not a version or a date.
_EXTENSION = re.compile(r"\.(?!v[0-9]+$)[a-z][a-z0-9_]{1,9}")

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Summary:
    """The result of a finished job. ``labels`` counts each label; ``labelled`` counts the rows of this run."""

    output: str
    rows: int
    parts: int
    errors: int
    labels: dict[str, int]
    labelled: int
    seconds: float


class Engine(Protocol):
    """Labels texts. ``map`` yields an outcome for each text, in order; that of None is empty."""

    def map(self, texts: Iterable[str | None]) -> Iterator[Outcome]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Target:
    """The folder of the parts, and the file that they are joined to, or None if the output is the folder."""

    parts: str
    file: str | None
    format: str
    compression: str | None


def score(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    task: str = DEFAULT_TASK,
    report: Report | None = None,
    say: Callable[[str], None] | None = None,
    **arguments: Unpack[ScoreArguments],
) -> Summary:
    """Label every row of ``inputs`` and write it to ``output``; continue where an earlier call was stopped or killed.

    Arguments:
        inputs: files, folders or fsspec's addresses: CSV, TSV, JSON Lines, JSON array, Parquet or text, all but Parquet
            also .gz or .zst; folders of them, pipes; ``-`` is standard input.
        output: a file by its name (.parquet, .csv, .tsv, .jsonl; all but Parquet also .gz or .zst), else a folder of
            parts, which are Parquet or ``output_format``.
        task: ``sentiment`` adds the columns ``label`` and ``score``; ``fill-mask`` adds ``fills``, for each mask the
            ``top_k`` words with their scores. Every task adds ``error``, which says what is wrong with a row.
        report: called with a dict of numbers about twice a second: ``rows``, ``total``, ``rows_per_second``,
            ``seconds_left``, ``parts``, ``of``, ``errors``, ``phase``.
        say: called with each message for a person.
        column: the column of the texts, by default ``text``. A text file has only that column.
        model, provider, precision: as for the pipeline of the task. ``model`` may also be the folder of a teacher: any
            sequence classifier of transformers, with safetensors. It runs in PyTorch, on a GPU if there is one.
        exact, sliding_windows: sentiment: as for ``Sentiment``.
        explain: sentiment: add the column ``words``: this many words, those with the largest weights first, with their
            weights as in ``Sentiment.explain``, which also gives the score then; a list of structs, in CSV as JSON.
        min_score: sentiment: a row with a lower score, from 0 to 1, gets the label ``unsure``.
        all_scores: sentiment: add the probability of every label: the column ``scores``, a struct, in Parquet and JSON
            Lines; a column ``score_LABEL`` for each label in CSV and TSV.
        temperature: for a teacher: its logits are divided by this number.
        top_k: fill-mask: the number of words for each mask, by default 5.
        workers: number of texts at a time; None means one per core. With ``ray``, the number of actors; None means one
            less than the free CPUs.
        part_rows: rows per part, by default 1,000. If the process is killed, its unfinished parts are lost.
        prefix: prefix of the added columns' names; None means no prefix, or ``predicted_`` if the input already has
            one of the names.
        input_format, output_format: None takes the format from the extension, for a folder of parts Parquet.
        delimiter: delimiter of CSV and TSV inputs; None means a comma in CSV and a tab in TSV.
        strict: stop at the first bad row, instead of writing it with its error.
        overwrite: replace what another job wrote to ``output``.
        ray: ``auto``, ``local`` or the address of a Ray cluster; None labels on this machine.

    The bytes of the output are the same however often the job was interrupted, and on Ray. Raises UsageError,
    InputError, OutputError, BundleError, ProviderError, MissingDependencyError.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "reviews.csv").write_text("text\\ngreat film\\nawful film\\n")
    >>> score(folder / "reviews.csv", folder / "labelled.csv").labels
    {'neg': 1, 'pos': 1}
    """
    require("pyarrow", "pyarrow", "edge-imdb score")
    started = time.monotonic()
    job, options = sort_arguments(task, dict(arguments))
    names = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    target = find_target(os.fspath(output), job.output_format)
    with contextlib.ExitStack() as stack:
        sources = _sources([os.fspath(name) for name in names], target, job, say, stack)
        store = open_store(target.parts)
        stack.enter_context(store.writing())
        stack.callback(_tidy, store)
        old = _earlier(store, target, job.overwrite)
        progress = _Progress(store, report)
        rows = _count(sources, old, progress)
        if not rows:
            raise InputError(f"{', '.join(map(str, names))} has no rows: give at least one text.")
        schema = schema_of(sources, job.column)
        # Checked first with the names that are known without a model, which may take a minute to open.
        _added(options.columns, schema.names, job.prefix)
        labeller = open_labeller(options)
        labels = labeller.labels
        added = _added(options.columns_for(labels, target.format), schema.names, job.prefix)
        record = Manifest(
            inputs=manifest.describe(sources),
            column=job.column,
            rows=rows,
            part_rows=job.part_rows,
            output={"format": target.format, "one file": target.file is not None, "added columns": list(added)},
            model=labeller.identity(),
        )
        _begin(store, old, record, job.overwrite)
        there = store.names()
        missing = [number for number, name in enumerate(record.parts) if name not in there]
        progress.planned(record, missing)
        tally = _Tally(options)
        if missing:
            engine = _engine(labeller, job, say)
            del labeller
            reader = Reader(sources, schema, job.column)
            stack.callback(reader.close)
            stack.callback(engine.close)
            for number, block, outcomes in _label(record, missing, reader, engine, job.strict, progress):
                table = with_outcomes(block.table, outcomes, options, added, labels, target.format)
                store.put(record.parts[number], formats.encode(table, target.format))
                tally.add(outcomes)
                progress.written()
        for name in sorted(there & set(record.parts)):
            tally.read(_get(store, name), target.format, added)
        if target.file is not None:
            progress.joining()
            with store.sibling(target.file) as joined:
                formats.join(record.parts, lambda name: _get(store, name), joined, target.format, target.compression)
            store.clear()
        progress.end(tally.errors, keep=target.file is None)
        return Summary(
            output=target.file or target.parts,
            rows=rows,
            parts=len(record.parts),
            errors=tally.errors,
            labels=dict(sorted(tally.labels.items())),
            labelled=tally.labelled,
            seconds=time.monotonic() - started,
        )


def _sources(
    names: Sequence[str],
    target: Target,
    job: JobOptions,
    say: Callable[[str], None] | None,
    stack: contextlib.ExitStack,
) -> list[Source]:
    """The input files. Pipes are copied to a file until ``stack`` is closed, because every input is read twice."""
    input_format = job.input_format
    if "-" in names and len(names) > 1:
        raise UsageError("- is standard input: leave the other inputs out.")
    _check_apart([name for name in names if name != "-"], target)
    if say is not None and any(name == "-" or is_stream(name) for name in names):
        say("A pipe can't be read twice: to continue after an interruption, pipe the same data again.")
    given: list[str | File] = []
    for name in names:
        if name == "-":
            given.append(stack.enter_context(spooled(sys.stdin.buffer, "standard input")))
            input_format = input_format or "text"
        elif is_stream(name):
            with _opened(name) as stream:
                given.append(stack.enter_context(spooled(stream, name)))
        else:
            given.append(name)
    return find_inputs(given, input_format, job.delimiter, say)


def _opened(name: str) -> IO[bytes]:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise InputError(f"{name} can't be read ({error.strerror}): check its permissions.") from None


def _earlier(store: Store, target: Target, overwrite: bool) -> Manifest | None:
    """The record of an earlier job in ``store``, if there is one. Raises OutputError if it may not be continued."""
    old = None
    try:
        old = manifest.read(store)
    except OutputError:
        if not overwrite:
            raise
        _clear(store)
    _check_free(store, target, old, overwrite)
    return old


def _count(sources: list[Source], old: Manifest | None, progress: _Progress) -> int:
    """Survey the inputs and return their number of rows. Inputs that an earlier job surveyed are not read again."""
    known = {entry["name"]: entry for entry in old.inputs} if old else {}
    for source in sources:
        survey(source, known.get(source.name))
        progress.counted(source.rows)
    return sum(source.rows for source in sources)


def _begin(store: Store, old: Manifest | None, record: Manifest, overwrite: bool) -> None:
    """Write the record of a new job; leave that of the same job as it is. Raises OutputError for another job's."""
    if old is not None and (differences := old.differences(record)):
        if not overwrite:
            raise OutputError(
                f"{store.name} has the parts of another job: {'; '.join(differences)}. Choose another --output, or "
                "replace it with --overwrite."
            )
        _clear(store)
        old = None
    if old is None:
        record.write(store)


def _engine(labeller: Labeller | TeacherLabeller, job: JobOptions, say: Callable[[str], None] | None) -> Engine:
    """Label on this machine, or on a Ray cluster."""
    if job.ray is None:
        return Local(labeller, job.workers or usable_cores() or os.cpu_count() or 1, job.part_rows)
    from .on_ray import OnRay

    return OnRay(job.ray, labeller.options, labeller.identity(), job.workers, say, labeller.window, job.part_rows)


def _check_apart(inputs: Sequence[str], target: Target) -> None:
    """The output must not be inside an input, because the next run would read it."""
    for name in inputs:
        for path in filter(None, (target.parts, target.file)):
            if is_url(name) or is_url(path):
                inside = f"{path}/".startswith(f"{name.rstrip('/')}/")
            else:
                inside = Path(path).resolve().is_relative_to(Path(name).resolve())
            if inside:
                raise UsageError(f"The output {path} is inside the input {name}: choose another path.")


def find_target(output: str, output_format: str | None = None) -> Target:
    """Where ``output`` leads, by its name. Raises UsageError for a kind of file that isn't written.

    >>> find_target("labelled.csv.gz").format, find_target("labelled/").format
    ('csv', 'parquet')
    """
    if output_format is not None and output_format not in formats.OUTPUT_FORMATS:
        raise UsageError(f"There is no output format {output_format!r}: use {', '.join(formats.OUTPUT_FORMATS)}.")
    if output in ("-", "/dev/stdout") or is_stream(output):
        raise UsageError(
            f"The output is {output}, but score writes files, so that it can continue after an interruption: give a "
            "file or a folder, or use edge-imdb predict --json for standard output."
        )
    name = trimmed(output)
    if not name:
        raise UsageError("Give a file or a folder to write to with --output.")
    suffix, packed = extensions(base_name(name))
    folder = name != output or exists(name) == "folder"
    if not folder and suffix in formats.SUFFIXES and not (packed and suffix == ".parquet"):
        kind = formats.SUFFIXES[suffix]
        if output_format not in (None, kind):
            raise UsageError(
                f"{output} is {kind} by its name, but --output-format is {output_format}: leave --output-format out."
            )
        return Target(name + PARTS_SUFFIX, name, kind, COMPRESSIONS.get(packed))
    # out.v2 and out.2024 may be folders, but nobody wants a folder named out.csv.bz2.
    if not folder and (packed or _EXTENSION.fullmatch(suffix)):
        raise UsageError(
            f"{output} has an extension that can't be written: use .parquet, or .csv, .tsv, .jsonl with or without .gz "
            "or .zst; for a folder of parts put a / behind its name."
        )
    return Target(name, None, output_format or "parquet", None)


def _check_free(store: Store, target: Target, old: Manifest | None, overwrite: bool) -> None:
    """Raise OutputError if the job would overwrite foreign files or a finished output."""
    if old is None and (others := sorted(store.names() - {_PROGRESS, manifest.NAME})):
        raise OutputError(
            f"{store.name} contains files that are not parts of a job ({others[0]}): choose another path."
        )
    if target.file is not None and old is None and exists(target.file) and not overwrite:
        raise OutputError(f"{target.file} already exists: use --overwrite to replace it, or choose another path.")
    if target.file is not None and exists(target.file) == "folder":
        raise OutputError(f"{target.file} is a folder: choose another path.")


def _clear(store: Store) -> None:
    # The manifest first: parts without a manifest are ignored.
    for name in sorted(store.names(), key=lambda name: name != manifest.NAME):
        if name in (manifest.NAME, _PROGRESS) or name.startswith("part-"):
            store.remove(name)


def _added(columns: Sequence[str], names: Sequence[str], prefix: str | None) -> tuple[str, ...]:
    """The names of the added ``columns``, with a prefix. Raises UsageError if the input has one of them."""
    chosen = prefix if prefix is not None else PREFIX if set(names) & set(columns) else ""
    added = tuple(chosen + name for name in columns)
    double = sorted(set(names) & set(added))
    if double:
        raise UsageError(f"The input already has a column {double[0]!r}: choose other names with --prefix.")
    return added


def _label(
    job: Manifest, missing: Sequence[int], reader: Reader, engine: Engine, strict: bool, progress: _Progress
) -> Iterator[tuple[int, Block, list[Outcome]]]:
    """Each missing part with its rows and their outcomes. Reading ahead crosses the borders of parts."""
    waiting: deque[tuple[int, Block]] = deque()

    def texts() -> Iterator[str | None]:
        for number in missing:
            start = number * job.part_rows
            block = reader.read(start, min(start + job.part_rows, job.rows))
            waiting.append((number, block))
            yield from block.texts

    stream = engine.map(texts())
    try:
        for first in stream:
            number, block = waiting.popleft()
            outcomes: list[Outcome] = []
            rest = itertools.islice(stream, len(block.texts) - 1)
            for row, outcome in enumerate(itertools.chain([first], rest)):
                if (bad := block.errors[row]) is not None:
                    outcome = Outcome(None, bad)
                if outcome.error is not None and strict:
                    raise InputError(f"{block.places[row]}: {outcome.error}")
                outcomes.append(outcome)
                progress.row(outcome.error is not None)
            yield number, block, outcomes
    finally:
        if hasattr(stream, "close"):
            stream.close()


def _get(store: Store, name: str) -> bytes:
    data = store.get(name)
    if data is None:
        raise OutputError(f"{store.name}/{name} was removed while the job ran: run the same command again.")
    return data


def _tidy(store: Store) -> None:
    """Remove an empty folder if the job didn't start."""
    with contextlib.suppress(OutputError):
        if manifest.NAME not in (names := store.names()) and names <= {_PROGRESS}:
            store.remove(_PROGRESS)
            store.remove_empty()


class _Tally:
    """Counts labels and errors: of new parts as they are made, of earlier parts by reading them."""

    def __init__(self, options: Options) -> None:
        self._counted = options.rows.counted
        self.labels: Counter[str] = Counter()
        self.errors = self.labelled = 0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        self.labelled += len(outcomes)
        self.errors += sum(outcome.error is not None for outcome in outcomes)
        if self._counted is not None:
            self.labels.update(outcome.value[self._counted] for outcome in outcomes if outcome.value is not None)

    def read(self, data: bytes, kind: str, added: Sequence[str]) -> None:
        labels, errors = formats.tally(data, kind, None if self._counted is None else added[self._counted], added[-1])
        self.labels += labels
        self.errors += errors


class _Progress:
    """Counts rows, their rate and the time left, for ``report`` and, in a file beside the parts, for ``status``."""

    def __init__(self, store: Store, report: Report | None) -> None:
        self._store, self._report = store, report
        self._record: dict[str, Any] = {
            "phase": "read", "rows": 0, "total": 0, "rows_per_second": None, "seconds_left": None,
            "parts": 0, "of": 0, "errors": 0,
        }  # fmt: skip
        self._seen: deque[tuple[float, int]] = deque()
        self._next = 0.0

    def counted(self, rows: int) -> None:
        self._record["total"] += rows
        self._tell()

    def planned(self, job: Manifest, missing: Sequence[int]) -> None:
        open_rows = sum(min(job.part_rows, job.rows - number * job.part_rows) for number in missing)
        self._record.update(
            phase="score", rows=job.rows - open_rows, parts=len(job.parts) - len(missing), of=len(job.parts)
        )
        self._tell(at_once=True)

    def row(self, bad: bool) -> None:
        self._record["rows"] += 1
        self._record["errors"] += bad
        self._tell()

    def written(self) -> None:
        self._record["parts"] += 1
        self._tell()

    def joining(self) -> None:
        self._record["phase"] = "join"
        self._tell(at_once=True)

    def end(self, errors: int, keep: bool) -> None:
        self._record.update(phase="done", errors=errors, seconds_left=0.0)
        self._tell(at_once=True, write=keep)

    def _tell(self, at_once: bool = False, write: bool = True) -> None:
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        self._next = now + _TICK
        record = self._record
        if record["phase"] == "score":
            self._seen.append((now, record["rows"]))
            while now - self._seen[0][0] > _SPAN:
                self._seen.popleft()
            seconds, rows = now - self._seen[0][0], record["rows"] - self._seen[0][1]
            if seconds > 0 and rows:
                record["rows_per_second"] = rows / seconds
                record["seconds_left"] = (record["total"] - record["rows"]) * seconds / rows
        if write:
            content = {**record, **host(), "time": time.time()}
            self._store.put(_PROGRESS, json.dumps(content).encode("utf-8"), durable=False)
        if self._report is not None:
            self._report(dict(record))


def status(output: str | os.PathLike[str]) -> dict[str, Any]:
    """How far the job that writes ``output`` is: what ``report`` gets, and ``running``: whether its process lives.

    ``rows`` counts the rows of finished parts, which can't be lost any more. Raises OutputError if there is no job.
    """
    name = trimmed(os.fspath(output))
    for path in (name, name + PARTS_SUFFIX):
        if exists(path) == "file":
            continue
        store = open_store(path)
        job = manifest.read(store)
        if job is not None:
            break
    else:
        if exists(name) == "file":
            raise OutputError(f"The job of {name} is finished: its parts were joined.")
        raise OutputError(f"There is no job in {name}: give the --output of a job.")
    there = store.names()
    done = [number for number, part in enumerate(job.parts) if part in there]
    record = json.loads(store.get(_PROGRESS) or b"{}")
    running = record.get("phase") != "done" and alive(record, _STILL)
    return {
        "phase": record.get("phase", "read"),
        "rows": sum(min(job.part_rows, job.rows - number * job.part_rows) for number in done),
        "total": job.rows,
        "parts": len(done),
        "of": len(job.parts),
        "errors": record.get("errors", 0),
        "rows_per_second": record.get("rows_per_second") if running else None,
        "seconds_left": record.get("seconds_left") if running else None,
        "running": running,
        "inputs": [entry["name"] for entry in job.inputs],
    }
