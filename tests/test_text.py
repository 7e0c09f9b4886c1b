from __future__ import annotations

import numpy as np
import pytest

from edge_imdb.errors import InputError, UsageError
from edge_imdb.text import ReviewEncoder, Truncation, clean


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
