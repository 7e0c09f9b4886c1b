"""write_tables: the character tables of the page's tokenizer, made with the tokenizer that Python runs.

A browser's own Unicode tables depend on its version and differ from those of the tokenizers package. So this module
puts every code point through the real normalizer and the real pre-tokenizer, and writes down the results:

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

from ..data import emoji
from ..runtime.bundle import EMBEDDED, TOKENIZER
from ..tasks import DEFAULT_TASK

TARGET = Path(__file__).parent / "static" / "tables.mjs"
# A combining mark of class 224 that the normalizer keeps.
_MARK = "\u302e"
_HANGUL = range(0xAC00, 0xAC00 + 11172)


def write_tables(target: Path = TARGET) -> None:
    """Write the tables of BERT's uncased normalizer, which all our bundles use, to a JavaScript module."""
    target.write_text(render_tables(), encoding="utf-8", newline="\n")


def render_tables() -> str:
    """The text of the module. It depends only on the versions of Python and of tokenizers."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / DEFAULT_TASK / TOKENIZER))
    deleted, spaces, apart, punctuation, changed = [], [], [], [], {}
    survivors: set[str] = set()
    for point in range(sys.maxunicode + 1):
        character = chr(point)
        if 0xD800 <= point < 0xE000:
            continue
        normalized = tokenizer.normalizer.normalize_str(character)
        survivors |= set(normalized)
        if normalized == "":
            deleted.append(point)
        elif normalized == " ":
            spaces.append(point)
        elif normalized == f" {character} ":
            apart.append(point)
        elif point not in _HANGUL and normalized != character:
            changed[character] = normalized
    for character in survivors:
        if len(tokenizer.pre_tokenizer.pre_tokenize_str(f"a{character}a")) == 3:
            punctuation.append(ord(character))
    # The marks that the normalizer keeps and sorts into canonical order.
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
        "emoji": emoji.EMOJI,
        "modifier": emoji.MODIFIER,
        "rating": emoji.RATING,
        "spelled": emoji.SPELLED,
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(table, separators=(',', ':'))}," for name, table in tables.items()]
    return "\n".join(
        ["// Written by `python -m edge_imdb.web.character_tables`; not by hand.", "export default {", *lines, "};", ""]
    )


def _is_ordered(tokenizer: Tokenizer, character: str, order: int) -> bool:
    """Whether the normalizer's own tables, which are older than Python's, have this mark's combining class."""
    known = unicodedata.combining(_MARK)
    if character == _MARK or order == known:
        return True
    pair = _MARK + character if order < known else character + _MARK
    normalized: str = tokenizer.normalizer.normalize_str(pair)
    return normalized != pair


def _ranges(points: Iterable[int]) -> list[int]:
    """The first and the last point of each run of consecutive ``points``, as one flat list."""
    ranges: list[int] = []
    for point in points:
        if ranges and ranges[-1] == point - 1:
            ranges[-1] = point
        else:
            ranges += [point, point]
    return ranges


if __name__ == "__main__":
    write_tables()
