"""Chunks and masks: whole words, shares, and the one masking that every perplexity is measured on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import SHARED, make_reviews

from edge_imdb.data.masking import IGNORED, Ids, Vocabulary, choose, draw, evaluation_batches, join_chunks, replace
from edge_imdb.errors import DataError, InputError
from edge_imdb.runtime.bundle import EMBEDDED


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED / "sentiment" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: object) -> Vocabulary:
    return Vocabulary.of(tokenizer)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def chunks(tokenizer: object) -> Ids:
    texts = [text + " Unputdownable, antidisestablishmentarianism!" for text, _ in make_reviews(2000)]
    return join_chunks(tokenizer, texts, 256)  # type: ignore[arg-type]


def test_texts_are_cleaned_joined_and_cut(tokenizer: object) -> None:
    texts = ["A great<br />film.", "  ", "So so."] * 20
    whole = [tokenizer.encode(text).ids for text in ("A great film.", "So so.")]  # type: ignore[attr-defined]
    expected = [token for ids in whole for token in ids] * 20
    got = join_chunks(tokenizer, texts, 8)  # type: ignore[arg-type]
    assert got.shape == (len(expected) // 8, 8)
    assert got.ravel().tolist() == expected[: got.size]


def test_less_than_a_chunk_is_one_short_chunk_and_nothing_is_refused(tokenizer: object) -> None:
    assert join_chunks(tokenizer, ["A great film."], 256).shape == (1, 6)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="blank"):
        join_chunks(tokenizer, [" ", "<br />"], 256)  # type: ignore[arg-type]


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_words_are_chosen_whole_and_as_often_as_asked(chunks: Ids, vocabulary: Vocabulary, probability: float) -> None:
    chosen = choose(chunks, vocabulary, probability, draw(((7, i) for i in range(len(chunks))), 256))
    continues = ~vocabulary.starts[chunks[:, 1:]]
    assert continues.sum() > 1000
    assert (chosen[:, 1:] == chosen[:, :-1])[continues].all()
    assert not chosen[vocabulary.special[chunks]].any()
    words = vocabulary.starts[chunks] & ~vocabulary.special[chunks]
    assert abs(chosen[words].mean() - probability) < 4 * (probability * (1 - probability) / words.sum()) ** 0.5


def test_tokens_are_chosen_one_by_one_where_asked(chunks: Ids, vocabulary: Vocabulary) -> None:
    chosen = choose(chunks, vocabulary, 0.5, draw(((7, i) for i in range(len(chunks))), 256), "token")
    continues = ~vocabulary.starts[chunks[:, 1:]]
    assert 0.4 < (chosen[:, 1:] == chosen[:, :-1])[continues].mean() < 0.6


def test_masking_everything_masks_all_but_special_tokens(chunks: Ids, vocabulary: Vocabulary) -> None:
    chosen = choose(chunks, vocabulary, 1.0, draw(((7, i) for i in range(len(chunks))), 256))
    assert (chosen == ~vocabulary.special[chunks]).all()


def test_policies_mask_replace_and_keep_their_shares(chunks: Ids, vocabulary: Vocabulary) -> None:
    draws = draw(((7, i) for i in range(len(chunks))), 768)
    chosen = choose(chunks, vocabulary, 0.5, draws[:, :256])
    all_masked = replace(chunks, chosen, vocabulary, "mask", draws[:, 256:512], draws[:, 512:])
    assert (all_masked == np.where(chosen, vocabulary.mask_id, chunks)).all()
    mixed = replace(chunks, chosen, vocabulary, "80-10-10", draws[:, 256:512], draws[:, 512:])
    assert (mixed == chunks)[~chosen].all()
    masked, kept = (mixed == vocabulary.mask_id)[chosen].mean(), (mixed == chunks)[chosen].mean()
    assert abs(masked - 0.8) < 0.01 and abs(kept - 0.1) < 0.01
    other = mixed[chosen & (mixed != vocabulary.mask_id) & (mixed != chunks)]
    assert len(np.unique(other)) > 0.9 * len(other) and other.max() > 30_000 > 1000 > other.min()


def test_draws_are_the_same_on_every_machine() -> None:
    assert draw([(0, 1), (0, 2)], 2).tolist() == [
        [16412783775159424549, 10277383025879800780],
        [1490940365631266091, 7423666954494463881],
    ]


def _labels_hash(chunks: Ids, vocabulary: Vocabulary, size: int) -> str:
    digest = hashlib.sha256()
    for ids, labels in evaluation_batches(chunks, vocabulary, range(len(chunks)), size):
        assert ((ids == vocabulary.mask_id) == (labels != IGNORED)).all()
        digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()


def test_evaluation_masks_are_fixed(chunks: Ids, vocabulary: Vocabulary) -> None:
    assert (
        _labels_hash(chunks, vocabulary, 64)
        == _labels_hash(chunks, vocabulary, 1)
        == "233963dbf47aff81898eeeffcc4d6b0edf6d7a3be9c6b0b220d2fa6bc8b8d200"
    )


def test_evaluation_masks_of_imdb_are_fixed(tokenizer: object, vocabulary: Vocabulary) -> None:
    if not (SHARED / "imdb").exists():
        pytest.skip("the IMDb data set is not beside this clone, in ../shared/imdb")
    pytest.importorskip("datasets", reason="datasets is not installed")
    from edge_imdb.data.datasets import read_texts

    chunks = join_chunks(tokenizer, read_texts(str(SHARED / "imdb"), "test"), 256)  # type: ignore[arg-type]
    assert chunks.shape == (28393, 256)
    assert _labels_hash(chunks, vocabulary, 64) == "bbcfe03d978a4f0160ab35b90fa754ec3b759fde31a4d92665d35219272a4f2a"


def test_a_tokenizer_without_mask_is_refused() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(InputError, match=r"no \[MASK\]"):
        Vocabulary.of(Tokenizer(models.WordPiece({"[UNK]": 0, "film": 1}, unk_token="[UNK]")))
