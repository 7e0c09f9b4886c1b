from __future__ import annotations

import pytest
from conftest import make_reviews

from edge_imdb.data.splits import fingerprint, hold_out, sample
from edge_imdb.errors import DataError

TEXTS = [text for text, _ in make_reviews(400)]
LABELS = [i % 2 for i in range(400)]


def test_held_out_part_has_the_share_asked_for_of_each_label() -> None:
    train, held = hold_out(TEXTS, LABELS, 0.05, seed=0)
    assert len(held) == 20 and sum(LABELS[i] for i in held) == 10
    assert sorted(train + held) == list(range(400))


def test_split_depends_on_the_seed_and_not_on_the_order() -> None:
    _, held = hold_out(TEXTS, LABELS, 0.05, seed=0)
    order = list(reversed(range(400)))
    _, shuffled = hold_out([TEXTS[i] for i in order], [LABELS[i] for i in order], 0.05, seed=0)
    assert {TEXTS[i] for i in held} == {TEXTS[order[i]] for i in shuffled}
    _, other = hold_out(TEXTS, LABELS, 0.05, seed=1)
    assert set(held) != set(other)


def test_copies_of_one_text_stand_on_one_side() -> None:
    texts = TEXTS + [text.replace(" ", "<br />") for text in TEXTS]
    train, held = hold_out(texts, LABELS + LABELS[::-1], 0.2, seed=3)
    assert not {i % 400 for i in train} & {i % 400 for i in held}


@pytest.mark.parametrize("texts", [["one"], ["same", "same"]])
def test_too_few_texts_to_split_are_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="too few"):
        hold_out(texts, [0] * len(texts), 0.5, seed=0)


def test_sample_is_seeded_and_in_order() -> None:
    drawn = sample(TEXTS, 50, seed=0)
    assert len(drawn) == 50 and drawn == sorted(drawn) and drawn == sample(TEXTS, 50, seed=0)
    assert drawn != sample(TEXTS, 50, seed=1)
    assert sample(TEXTS, 1000, seed=0) == list(range(400))


def test_fingerprint_tells_sets_of_texts_apart() -> None:
    assert fingerprint(TEXTS) == fingerprint(TEXTS[::-1]) != fingerprint(TEXTS[:-1])
