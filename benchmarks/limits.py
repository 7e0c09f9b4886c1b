"""Where the embedded sentiment bundle fails: python benchmarks/limits.py

Short texts that we wrote for this, in groups, each with the label that a reader would give it. They show what to expect
from kinds of text that the model wasn't trained on. They choose nothing: no model, no threshold, no option.
"""

from __future__ import annotations

from collections.abc import Iterator

# Groups of (text, label that a reader would give, or "" if the text has no opinion).
GROUPS: dict[str, list[tuple[str, str]]] = {
    "plain": [
        ("A warm, funny film with a wonderful cast.", "pos"),
        ("The camera work is beautiful and the ending moved me to tears.", "pos"),
        ("I would happily watch it again tomorrow.", "pos"),
        ("One of the best thrillers I have seen in years.", "pos"),
        ("Dull, slow and far too long.", "neg"),
        ("The script is a mess and nobody in it can act.", "neg"),
        ("I walked out after an hour.", "neg"),
        ("A cheap sequel that nobody asked for.", "neg"),
    ],
    "negated": [
        ("This is not a bad film at all.", "pos"),
        ("You won't regret buying a ticket.", "pos"),
        ("There was never a dull moment.", "pos"),
        ("I could not find a single thing wrong with it.", "pos"),
        ("This is not a good film.", "neg"),
        ("It never becomes interesting.", "neg"),
        ("I can't say that I enjoyed it.", "neg"),
        ("Nothing about it is funny, clever or new.", "neg"),
    ],
    "mixed": [
        ("It starts badly, but by the end I loved it.", "pos"),
        ("The plot has holes, and still I had a great time.", "pos"),
        ("A slow first hour is forgiven by a brilliant second one.", "pos"),
        ("Critics hated it. They are wrong.", "pos"),
        ("The actors are excellent, but they can't save this film.", "neg"),
        ("It looks gorgeous and has nothing to say.", "neg"),
        ("I wanted to like it, I really did.", "neg"),
        ("Everyone told me it was a masterpiece. It isn't.", "neg"),
    ],
    "ironic": [
        ("Oh great, another two hours of my life that I will never get back.", "neg"),
        ("What a triumph: even my popcorn was bored.", "neg"),
        ("The best part was when the lights came back on.", "neg"),
        ("If you have trouble sleeping, I warmly recommend this film.", "neg"),
        ("A wonderful film for people who hate films.", "neg"),
        ("Bravo! I have rarely seen so much money spent on so little.", "neg"),
        ("I laughed all the way through, which is a pity, because it is a tragedy.", "neg"),
        ("So bad that I have already seen it five times with friends.", "pos"),
    ],
    "neutral": [
        ("The film is two hours long and was shot in Canada.", ""),
        ("It is the third film of the series.", ""),
        ("The story takes place in a small town in 1954.", ""),
        ("I saw it on a Tuesday.", ""),
        ("The director also wrote the script.", ""),
        ("It opens in cinemas next month.", ""),
        ("The main character is a nurse.", ""),
        ("Neither good nor bad, just average.", ""),
    ],
    "other subjects": [
        ("The soup was cold and the waiter was rude.", "neg"),
        ("The battery dies after an hour.", "neg"),
        ("My parcel arrived three weeks late and the box was open.", "neg"),
        ("The trousers tore on the first day.", "neg"),
        ("The room was spotless and the staff could not have been kinder.", "pos"),
        ("This vacuum cleaner is quiet and light, and picks up everything.", "pos"),
        ("The dentist was gentle and it didn't hurt.", "pos"),
        ("The update fixed every problem I had.", "pos"),
    ],
    "other languages": [
        ("Ein wunderbarer Film, ich habe jede Minute genossen.", "pos"),
        ("Der schlechteste Film des Jahres, reine Zeitverschwendung.", "neg"),
        ("Un film magnifique, drôle et émouvant.", "pos"),
        ("Quel ennui, je me suis endormi au bout de dix minutes.", "neg"),
        ("Una película preciosa con actores estupendos.", "pos"),
        ("Un guion horrible y un final absurdo.", "neg"),
        ("素晴らしい映画でした。", "pos"),
        ("Ужасный фильм, не тратьте время.", "neg"),
    ],
}
LABELS = ("neg", "pos")


def markdown() -> str:
    """The labels and scores of the embedded bundle, as Markdown."""
    from edge_imdb import Sentiment
    from edge_imdb.runtime.bundle import EMBEDDED

    model = Sentiment(EMBEDDED / "sentiment")
    if set(model.labels) != set(LABELS):
        raise SystemExit(f"These texts are labelled {', '.join(LABELS)}, and the bundle has {', '.join(model.labels)}.")
    found = {group: list(model.stream(text for text, _ in texts)) for group, texts in GROUPS.items()}
    return "\n".join([*_summary(found), *_details(found)])


def _summary(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    yield "| texts | right | mean score | wrong with a score over 0.9 |"
    yield "|---|---|---|---|"
    for group, texts in GROUPS.items():
        pairs = list(zip(texts, found[group], strict=True))
        wrong = [result for (_, label), result in pairs if label and result["label"] != label]
        opinions = sum(1 for _, label in texts if label)
        right = f"{opinions - len(wrong)} of {opinions}" if opinions else "no right label"
        mean = sum(float(str(result["score"])) for result in found[group]) / len(texts)
        sure = f"{sum(float(str(result['score'])) > 0.9 for result in wrong)}" if opinions else ""
        yield f"| {group} | {right} | {mean:.2f} | {sure} |"


def _details(found: dict[str, list[dict[str, object]]]) -> Iterator[str]:
    for group, texts in GROUPS.items():
        yield f"\n## {group.capitalize()}\n"
        yield "| text | a reader says | edge-imdb says | score |"
        yield "|---|---|---|---|"
        for (text, label), result in zip(texts, found[group], strict=True):
            mark = "" if not label or result["label"] == label else " (wrong)"
            yield f"| {text} | {label or 'no opinion'} | {result['label']}{mark} | {result['score']:.2f} |"


if __name__ == "__main__":
    print(markdown())
