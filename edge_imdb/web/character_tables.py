"""write_tables: what the page's tokenizer knows of characters, taken from the tokenizer that Python runs.

A browser's own Unicode tables differ with its age, and from those of the tokenizers package. So every code point is put
through the real normalizer and the real pre-tokenizer, and what comes out is written down:

python -m edge_imdb.web.character_tables
"""

from __future__ import annotations

import html
import html.entities
import json
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

from ..runtime.bundle import EMBEDDED, TOKENIZER

TARGET = Path(__file__).parent / "static" / "tables.mjs"
# A mark that is kept, of combining class 224.
_MARK = "\u302e"
_HANGUL = range(0xAC00, 0xAC00 + 11172)


def write_tables(target: Path = TARGET) -> None:
    """Write the tables of BERT's uncased normalizer, as all our bundles have it, to a JavaScript module."""
    target.write_text(render_tables(), encoding="utf-8")


def render_tables() -> str:
    """The module's text: the same for the same versions of Python and tokenizers."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "sentiment" / TOKENIZER))
    deleted, spaces, apart, punctuation, changed = [], [], [], [], {}
    survivors: set[str] = set()
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        if 0xD800 <= point < 0xE000:
            continue
        found = tokenizer.normalizer.normalize_str(character)
        survivors |= set(found)
        if found == "":
            deleted.append(point)
        elif found == " ":
            spaces.append(point)
        elif found == f" {character} ":
            apart.append(point)
        elif point not in _HANGUL and found != character:
            changed[character] = found
    for character in survivors:
        if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{character}a")) == 3:
            punctuation.append(ord(character))
    # Of the marks that stay, those that the normalizer brings into the canonical order.
    combining = {
        character: order
        for character in sorted(survivors)
        if (order := unicodedata.combining(character)) and _is_ordered(tokenizer, character, order)
    }
    tables = {
        "deleted": _ranges(deleted),
        "spaces": _ranges(spaces),
        "apart": _ranges(apart),
        "punctuation": _ranges(sorted(punctuation)),
        "changed": changed,
        "combining": combining,
        "entities": html.entities.html5,
        "charrefs": {str(number): text for number, text in html._invalid_charrefs.items()},  # type: ignore[attr-defined]
        "noncharacters": _ranges(sorted(html._invalid_codepoints)),  # type: ignore[attr-defined]
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(table, separators=(',', ':'))}," for name, table in tables.items()]
    return "\n".join(
        ["// Written by `python -m edge_imdb.web.character_tables`; not by hand.", "export default {", *lines, "};", ""]
    )


def _is_ordered(tokenizer: Tokenizer, character: str, order: int) -> bool:
    """Whether the normalizer's own, older tables know this mark's combining class."""
    known = unicodedata.combining(_MARK)
    if character == _MARK or order == known:
        return True
    pair = _MARK + character if order < known else character + _MARK
    found: str = tokenizer.normalizer.normalize_str(pair)
    return found != pair


def _ranges(points: Iterable[int]) -> list[int]:
    """First and last of each run of ``points``, in order, one after the other."""
    found: list[int] = []
    for point in points:
        if found and found[-1] == point - 1:
            found[-1] = point
        else:
            found += [point, point]
    return found


if __name__ == "__main__":
    write_tables()
