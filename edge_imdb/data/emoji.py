"""spell_out: emoji and star ratings as English words, because BERT's vocabulary has no emoji and reads them as [UNK].

The words are Unicode's CLDR short names where a film review would use them ("thumbs down"), otherwise the words that a
review would use instead ("love" for a red heart). `web/character_tables.py` writes the same table for the page.
"""

from __future__ import annotations

import re

# Words, and the emoji that they stand for. A sequence with a zero-width joiner is written without variation selectors.
_NAMES = {
    # Hands
    "thumbs up": "👍",
    "thumbs down": "👎",
    "perfect": "👌",
    "applause": "👏",
    "bravo": "🙌",
    "thank you": "🙏",
    "strong": "💪",
    "rock on": "🤘",
    "peace": "✌",
    "insulting": "🖕",
    "shaking my head": "🤦",
    "shrug": "🤷",
    # Hearts
    "love": "❤ ♥ 💕 💖 💗 💓 💘 💝 💞 💟 ❣ 🧡 💛 💚 💙 💜 🤎 🖤 🤍 🩷 🩵 🩶 😍 🥰 😻",
    "passionate love": "❤\u200d🔥",
    "healing heart": "❤\u200d🩹",
    "broken heart": "💔",
    "kiss": "😘 😗 😙 😚 😽 💋",
    # Happy faces
    "smiling": "😊 🙂 ☺ 😇 😺",
    "grinning": "😀 😃 😄 😁 😸",
    "laughing": "😂 🤣 😆 😹",
    "nervous laugh": "😅",
    "wink": "😉",
    "smirk": "😏 😼",
    "cool": "😎 🆒",
    "amazing": "🤩",
    "mind blowing": "🤯",
    "delicious": "😋 🤤",
    "celebrating": "🥳 🎉 🎊",
    "hugs": "🤗 🫂",
    "touched to tears": "🥲 🥹",
    "relieved": "😌",
    "playful": "😜 😝 😛",
    "goofy": "🤪",
    # Neutral faces
    "indifferent": "😐",
    "speechless": "😶",
    "thinking": "🤔",
    # Unhappy faces
    "unimpressed": "😒 😑",
    "doubtful": "🤨",
    "annoyed": "🙄",
    "cringe": "😬",
    "confused": "😕 😵",
    "dizzy": "😵\u200d💫",
    "sigh": "😮\u200d💨",
    "sad": "☹ 🙁 😔",
    "worried": "😟 😧 😦",
    "disappointed": "😞 😓 😥",
    "crying": "😢 😿",
    "sobbing": "😭",
    "pleading": "🥺",
    "frustrated": "😤 😣 😖",
    "exhausted": "😩 😫",
    "angry": "😠 😡 😾",
    "swearing": "🤬",
    "scared": "😨 😰",
    "screaming": "😱",
    "embarrassed": "😳 🫣",
    "shocked": "😮 😲 😯 🙀",
    "fell asleep": "😴 💤 😪",
    "boring": "🥱",
    "sick": "🤢 🤒 😷",
    "vomit": "🤮",
    "crap": "💩",
    "garbage": "🗑 🚮",
    "clown": "🤡",
    "dead": "💀 ☠",
    "devil": "😈 👿",
    "can't watch": "🙈",
    # Things and signs
    "fire": "🔥",
    "100 percent": "💯",
    "trophy": "🏆",
    "gold medal": "🥇 🏅",
    "gem": "💎",
    "crown": "👑",
    "sparkling": "✨",
    "bomb": "💣",
    "yes": "✅ ✔ ☑",
    "nope": "❌ 🚫 ⛔ 🙅",
    "warning": "⚠",
    "ok": "🆗 🙆",
    "!": "❗ ❕",
    "?": "❓ ❔",
}
# The words for each emoji.
SPELLED = {emoji: words for words, many in _NAMES.items() for emoji in many.split()}

# Stars that count for a rating, stars that don't, and the signs for half a star.
_FULL, _EMPTY, _HALF = "★⭐🌟✭✮", "☆✩✰", "½⯨⯩⯪⯫"
# Variation selectors and skin tones: they change how an emoji looks, not what it means.
_MODIFIERS = "\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"
_JOINER = "\u200d"
_JOINED = [
    _JOINER.join(f"{part}[{_MODIFIERS}]*" for part in emoji.split(_JOINER)) for emoji in SPELLED if _JOINER in emoji
]
_SINGLE = "".join(emoji for emoji in SPELLED if len(emoji) == 1)
# After an emoji, the sign of a woman or of a man may follow, as in "🤷‍♀️".
_GENDER = f"(?:{_JOINER}[♀♂][{_MODIFIERS}]*)?"
# A run of stars begins with a whole star, so that "3½" stays a number.
_STARS = f"[{_FULL}{_EMPTY}][{_MODIFIERS}]*(?:[{_FULL}{_EMPTY}{_HALF}][{_MODIFIERS}]*)*"
# These three patterns mean the same in JavaScript: the page has copies of them, and of SPELLED, in static/tables.mjs.
EMOJI = f"(?:{'|'.join(_JOINED)}|[{_SINGLE}][{_MODIFIERS}]*){_GENDER}|{_STARS}"
MODIFIER = f"[{_MODIFIERS}]|{_JOINER}[♀♂]"
RATING = f"^([{_FULL}]*)([{_HALF}]?)([{_EMPTY}]*)$"

# The characters that take part in a match, as the inside of a character class.
CHARACTERS = f"{''.join(SPELLED)}{_FULL}{_EMPTY}{_HALF}♀♂{_MODIFIERS}"

# Where a text can be split: before an emoji or a row of stars, unless something belongs to it that stands before it. A
# ";" may end an HTML entity for a star or a joiner.
START = f"(?<![;{_JOINER}])[{_SINGLE}]|(?<![;{_FULL}{_EMPTY}{_HALF}{_MODIFIERS}{_JOINER}])[{_FULL}{_EMPTY}]"

# One star. More than a hundred of them in a row mean the same as a hundred.
STAR = f"(?:[{_FULL}{_EMPTY}][{_MODIFIERS}]?)"

# What `spell_out` replaces.
PATTERN = re.compile(EMOJI)
_MODIFIER, _RATING = re.compile(MODIFIER), re.compile(RATING)
# A quick test that most texts with accents or curly quotes fail: every match begins with one of these characters.
_MAYBE = re.compile(f"[{''.join(c for c in _SINGLE + _FULL + _EMPTY if ord(c) < 0x10000)}\U0001f000-\U0001ffff]")


def has_emoji(text: str) -> bool:
    """Whether ``text`` may contain something that ``spell_out`` replaces. False is certain."""
    return not text.isascii() and _MAYBE.search(text) is not None


def spell_out(text: str) -> str:
    """Return ``text`` with emoji and star ratings as English words between spaces.

    About 170 emoji that show an opinion are replaced, in every skin tone and gender. Other emoji stay as they are.
    Ratings become ratings out of ten, the scale of IMDb's reviews: the model has learnt from them what "8 out of 10"
    means, and not what "4 out of 5" means.

    >>> spell_out("👎🏽 Not for me")
    ' thumbs down  Not for me'
    >>> spell_out("★★★½☆")
    ' 7 out of 10 stars '
    """
    return PATTERN.sub(words_for, text) if has_emoji(text) else text


def words_for(match: re.Match[str]) -> str:
    """The words for one match of ``PATTERN``, between spaces."""
    found = _MODIFIER.sub("", match.group())
    return f" {SPELLED[found] if found in SPELLED else _stars(found)} "


def _stars(run: str) -> str:
    """The words for a run of stars.

    A run is a rating if its full, half and empty stars are in that order, and if there are at most ten. Without empty
    stars it is out of five, or out of ten if there are more than five stars: "★★★½" means 3½ out of 5.
    """
    if len(run) == 1:
        return "star"
    match = _RATING.match(run)
    if match is None or len(run) > 10 or (len(run) < 3 and match[3]):
        return "stars"
    full, half, empty = map(len, match.groups())
    if full + half == 0 and empty not in (5, 10):
        return "stars"
    total = len(run) if empty else 5 if len(run) <= 5 else 10
    return f"{(10 * (2 * full + half) + total) // (2 * total)} out of 10 stars"
