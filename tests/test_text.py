from __future__ import annotations

import contextlib
import random
import time

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_imdb.data import emoji
from edge_imdb.data import text as texts
from edge_imdb.data.text import ReviewEncoder, Truncation, clean
from edge_imdb.errors import BlankError, InputError, UsageError
from edge_imdb.runtime.bundle import EMBEDDED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("great film", "great film"),
        ("one<br /><br />two<BR>three</br>four< br/ >five", "one two three four five"),
        ("caf&eacute; &amp; &#39;bar&#39; &#x41;&quot;", "café & 'bar' A\""),
        ("&lt;br /&gt;end", "end"),
        ("why&not AT&T R&D; &unknown;", "why&not AT&T R&D; &unknown;"),
        ("a\x00b\x07c\x7fd\x85e", "a b c d e"),
        ("lone \ud800 surrogate", "lone surrogate"),
        (" \t\n several\u00a0\u2003spaces\r\n ", "several spaces"),
        ("великолепный фильм 👩‍🚀", "великолепный фильм 👩‍🚀"),
        ("", ""),
        ("\x00 <br/> &nbsp;", ""),
        ("&#0;", "\ufffd"),
        ("a < b > c <b>bold</b>", "a < b > c <b>bold</b>"),
        ("Good👍bad👎👎", "Good thumbs up bad thumbs down thumbs down"),
        ("&#128078;&#127997;! &#x2605;&#x2606;&#x2606;&#x2606;&#x2606;", "thumbs down ! 2 out of 10 stars"),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("length", "max_length", "ratio", "expected"),
    [
        (5, 7, 0.25, [0, 1, 2, 3, 4]),
        (20, 6, 0.25, [0, 17, 18, 19]),
        (20, 6, 0.0, [16, 17, 18, 19]),
        (20, 6, 1.0, [0, 1, 2, 3]),
        (20, 3, 0.25, [19]),
    ],
)
def test_cut_keeps_head_and_tail(length: int, max_length: int, ratio: float, expected: list[int]) -> None:
    assert Truncation(max_length, ratio).cut(list(range(length))) == expected


def test_default_cut_is_that_of_sun_et_al() -> None:
    kept = Truncation().cut(list(range(1000)))
    assert kept == [*range(128), *range(1000 - 382, 1000)]


@pytest.mark.parametrize(
    "values", [{"max_length": 2}, {"head_ratio": -0.1}, {"head_ratio": 1.1}, {"head_ratio": np.nan}]
)
def test_truncation_refuses_values_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        Truncation(**values)  # type: ignore[arg-type]


def test_encoder_ignores_the_tokenizers_own_padding_and_truncation(word_tokenizer: object) -> None:
    word_tokenizer.enable_truncation(4)  # type: ignore[attr-defined]
    word_tokenizer.enable_padding(length=16)  # type: ignore[attr-defined]
    encoder = ReviewEncoder(word_tokenizer, Truncation(8, 0.5))  # type: ignore[arg-type]
    words = ["good", "bad", "film", "plot", "good", "bad", "film", "plot"]
    ids = encoder.encode("<br />".join(words))
    assert len(ids) == 8
    assert ids[1:-1] == encoder.encode("good bad film")[1:-1] + encoder.encode("bad film plot")[1:-1]


@pytest.mark.parametrize("text", ["", "   ", "\x00\x01", "<br /><br />", "\ud800"])
def test_encoder_refuses_blank_texts(word_tokenizer: object, text: str) -> None:
    with pytest.raises(InputError, match="blank"):
        ReviewEncoder(word_tokenizer, Truncation()).encode(text)  # type: ignore[arg-type]


# --- emoji and star ratings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Variation selectors, skin tones, genders and joined sequences
        ("I ❤️ it, I ❤ it, I ❤\ufe0e it", "I love it, I love it, I love it"),
        ("👎🏻👎🏿", "thumbs down thumbs down"),
        ("🤷🏻\u200d♀️ 🤦\u200d♂", "shrug shaking my head"),
        ("❤️\u200d🔥 🔥", "passionate love fire"),
        ("😮\u200d💨 😮💨", "sigh shocked 💨"),
        # Emoji without an opinion stay as they are, with all that belongs to them.
        ("🎬 👩🏽\u200d🚀 ♀ 🏽", "🎬 👩🏽\u200d🚀 ♀ 🏽"),
        # Ratings: with empty stars out of as many as there are, otherwise out of five or ten
        ("★☆☆☆☆", "2 out of 10 stars"),
        ("★★★★☆", "8 out of 10 stars"),
        ("★★★★★", "10 out of 10 stars"),
        ("⭐️⭐️⭐️⭐️", "8 out of 10 stars"),
        ("🌟🌟🌟🌟🌟🌟🌟", "7 out of 10 stars"),
        ("★★★★★★★★☆☆", "8 out of 10 stars"),
        ("★★★½", "7 out of 10 stars"),
        ("★★★½☆", "7 out of 10 stars"),
        ("★★⯪☆☆", "5 out of 10 stars"),
        ("★★★☆", "8 out of 10 stars"),
        ("☆☆☆☆☆", "0 out of 10 stars"),
        # Not ratings
        ("★ Best film", "star Best film"),
        ("4★ and 3½★", "4 star and 3½ star"),
        ("★☆★☆★", "stars"),
        ("★★★★★★★★★★★★", "stars"),
        ("☆☆☆", "stars"),
        ("½", "½"),
    ],
)
def test_emoji_and_star_ratings_become_words(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_every_spelled_emoji_is_between_split_points_or_whole() -> None:
    for symbol in [*emoji.SPELLED, "★★★½☆", "⭐️⭐️", "👎🏽", "🤷🏻\u200d♀️"]:
        # A split point may only be at the start of the emoji.
        assert [at for start in range(len(symbol)) if (at := texts._cut("a" + symbol, start)) not in (None, 1)] == []
        if len(symbol) == 1:
            assert clean(f"a{symbol}b") == f"a {emoji.SPELLED[symbol]} b"


def test_words_for_emoji_are_in_the_vocabulary() -> None:
    for words in emoji.SPELLED.values():
        assert "[UNK]" not in TOKENIZER.encode(words).tokens, words


def test_most_characters_are_left_alone() -> None:
    spelled = {*"".join(emoji.SPELLED), *"★⭐🌟✭✮☆✩✰"} - {"\u200d"}
    others = "".join(chr(point) for point in range(0x110000) if chr(point) not in spelled)
    assert emoji.spell_out(others) == others


# --- texts of megabytes

TOKENIZER = Tokenizer.from_file(str(EMBEDDED / "sentiment" / "tokenizer.json"))
# What a cut could go through: words, markup, entities and what they make together, runs over WordPiece's 100
# characters, marks and signs that are dropped, other scripts.
PARTS = ["great", "film", "for", " ", "  ", "\n", ".", ",", "!", "'s", "-", "_", "<br />", "< br", "/ >", "<", ">", "/"]
PARTS += ["br", "b", "r", "&lt;", "&gt;", "&#98;", "&#x62;", "&amp;", "&gt", "[MASK]", "[CLS]", "[", "]", ";", "&"]
PARTS += ["x" * 100, "y" * 101, "z" * 300, "&" + "a" * 40 + ";", " " * 130, "!" * 120, "\u0301" * 150, "\u200b" * 250]
PARTS += ["映", "好" * 110, "。", "—" * 120, "é", "e\u0301", "\u0301", "\u200b", "\xad", "\x00", "\ud800", "\x85"]
PARTS += ["#", "##", "&#", "&#39;", "&quot;", "&quot", "amp;", "//", "<<", ">>", "[[", "]]", ";;", "&&", "<br/><"]
PARTS += ["/" * 90, "&lt;&lt;", "&gt;&gt;"]
PARTS += ["🎬", "🎬" * 120, "🎥", "ё", "İ", "한국", "€" * 120, "\u2028"]
PARTS += [
    "👎",
    "👎" * 130,
    "👍🏽",
    "🏽" * 120,
    "🏽",
    "\ufe0f",
    "\u200d",
    "\u200d🔥",
    "❤",
    "❤️\u200d🔥",
    "🤷🏻\u200d♀️",
    "♂",
    "❗",
]
PARTS += ["★", "☆", "★★★½☆", "½", "½" * 120, "⭐️", "🌟" * 120, "&#128078;", "&#9733;", "💨", "😮\u200d💨"]


class Whole(ReviewEncoder):
    """An encoder that tokenises a text whole, whatever its length."""

    _divisible = False


def test_ids_of_a_cut_text_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = Whole(TOKENIZER, Truncation()), ReviewEncoder(TOKENIZER, Truncation())
    draw = random.Random(0)
    shorter = 0
    for _ in range(300):
        # Small pieces, so that there are many places to cut at.
        monkeypatch.setattr(texts, "_PIECE", draw.choice([4, 16, 64, 256]))
        parts = draw.choices(PARTS, k=draw.choice([3, 8, len(PARTS)]))
        text = "".join(draw.choices(parts, k=draw.choice([10, 100, 400])))
        count = draw.choice([1, 3, 10, 50])
        truncation = Truncation(count + 2, draw.choice([0.0, 0.25, 0.5, 1.0]))
        try:
            ids = whole.tokens(text)
        except BlankError:
            for encode in (cut.tokens, lambda text, count=count: cut.ends(text, count)):
                with pytest.raises(BlankError):
                    encode(text)
            continue
        ends = cut.ends(text, count)
        assert cut.tokens(text) == ids, ascii(text)
        assert truncation.cut(ends) == truncation.cut(ids), ascii(text)
        shorter += len(ends) < len(ids)
    assert shorter > 100


@pytest.mark.parametrize(
    "part",
    [
        "a fine film, ",
        "<br /><br />so it was. ",
        "for ",
        "好",
        "👎",
        "★☆x",
        "⭐️",
        "!",
        "\u00e9",
        "\u200b",
        "  ",
        "&amp;",
        "/",
        "<",
        ">",
        "#",
        "[",
        "]",
        ";",
        "&",
    ],
)
def test_two_million_characters_take_a_fraction_of_a_second(part: str) -> None:
    encoder = ReviewEncoder(TOKENIZER, Truncation())
    encoder.encode("warm")
    # A whole number of parts, so that the ends of a shorter text are the same.
    long, short = part * (2_000_000 // len(part)), part * (200_000 // len(part))
    seconds, ids = [], []
    for _ in range(3):
        start = time.process_time()
        with contextlib.suppress(BlankError):
            ids = encoder.encode(long)
        seconds.append(time.process_time() - start)
    # Whole it is 1 to 3 seconds, and 150 bytes of memory for each character.
    assert min(seconds) < 0.5
    with contextlib.suppress(BlankError):
        assert ids == Whole(TOKENIZER, Truncation()).encode(short)
