"""Manifest: the description of a job, written before its first part. Different jobs can't share a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import OutputError
from .inputs import Source
from .storage import Store

# Readers of Parquet folders skip names that begin with an underscore.
NAME = "_manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """``inputs`` has each file's name, format, bytes, sha256, rows and columns; ``model`` is ``Labeller.identity``."""

    inputs: list[dict[str, Any]]
    column: str
    rows: int
    part_rows: int
    output: dict[str, Any]
    model: dict[str, Any]

    @property
    def parts(self) -> list[str]:
        """The names of all parts, in order."""
        count = -(-self.rows // self.part_rows)
        suffix = self.output["format"]
        return [f"part-{number:05d}-of-{count:05d}.{suffix}" for number in range(count)]

    def write(self, store: Store) -> None:
        record = {"edge-imdb score": FORMAT, **asdict(self)}
        store.put(NAME, (json.dumps(record, indent=1) + "\n").encode("utf-8"))

    def differences(self, other: Manifest) -> list[str]:
        """A phrase for each difference between two jobs. Where the inputs are is no difference."""
        found = []
        ours, theirs = self.inputs, other.inputs
        if len(ours) != len(theirs):
            found.append(f"there were {len(ours)} input files, now {len(theirs)}")
        else:
            for mine, its in zip(ours, theirs, strict=True):
                if mine.get("delimiter") != its.get("delimiter"):
                    found.append(f"the delimiter of {its['name']} is another")
                if mine.get("partitions", {}) != its.get("partitions", {}):
                    found.append(f"the folders of {its['name']} name other columns or values")
                keys = ("bytes", "sha256", "format", "compression")
                if any(mine[key] != its[key] for key in keys):
                    same = mine["name"] == its["name"]
                    what = f"{its['name']} has other content" if same else f"{mine['name']} was where {its['name']} is"
                    found.append(what)
        pairs = [("column", self.column, other.column), ("rows per part", self.part_rows, other.part_rows)]
        for name, one, two in (("", self.output, other.output), ("", self.model, other.model)):
            for key in sorted({*one, *two} - {"versions"}):
                pairs.append((f"{name}{key}", one.get(key), two.get(key)))
        mine, its = self.model.get("versions", {}), other.model.get("versions", {})
        pairs += [(package, mine.get(package), its.get(package)) for package in sorted({*mine, *its})]
        found += [f"{name} was {_short(one)}, now {_short(two)}" for name, one, two in pairs if one != two]
        return found


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text or "none"


def read(store: Store) -> Manifest | None:
    """The manifest in ``store``; None if there is none. Raises OutputError if it can't be read."""
    data = store.get(NAME)
    if data is None:
        return None
    try:
        record = json.loads(data)
        if record.pop("edge-imdb score") != FORMAT:
            raise ValueError("it is of another version of edge-imdb")
        return Manifest(**record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{store.name}/{NAME} is not a manifest of edge-imdb score ({error}): choose another --output."
        ) from None


def describe(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The entries of ``inputs``."""
    names = ("name", "format", "compression", "delimiter", "bytes", "sha256", "rows", "columns", "partitions")
    return [{name: getattr(source, name) for name in names} for source in sources]
