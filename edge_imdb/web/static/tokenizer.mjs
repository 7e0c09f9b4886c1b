// Tokenizer: BERT's uncased WordPiece, with the same tokens and offsets as the tokenizers package in Python. It uses
// character tables made with that package, because a browser's own tables depend on its version.

import tables from "./tables.mjs";
import { inRanges } from "./text.mjs";

const LONGEST_WORD = 100;
const HANGUL = { first: 0xac00, count: 11172, lead: 0x1100, vowel: 0x1161, tail: 0x11a7 };

function normalize(character) {
  const changed = tables.changed[character];
  if (changed !== undefined) return changed;
  const point = character.codePointAt(0);
  if (point < 0x80) return inRanges(tables.deleted, point) ? "" : inRanges(tables.spaces, point) ? " " : character;
  if (inRanges(tables.deleted, point)) return "";
  if (inRanges(tables.spaces, point)) return " ";
  if (inRanges(tables.apart, point)) return ` ${character} `;
  const syllable = point - HANGUL.first;
  if (syllable >= 0 && syllable < HANGUL.count) {
    const tail = syllable % 28;
    return (
      String.fromCodePoint(HANGUL.lead + Math.floor(syllable / 588), HANGUL.vowel + (Math.floor(syllable / 28) % 21)) +
      (tail ? String.fromCodePoint(HANGUL.tail + tail) : "")
    );
  }
  return character;
}

export class Tokenizer {
  /** `file` is the content of a bundle's tokenizer.json, parsed. Throws if it isn't such a tokenizer. */
  constructor(file) {
    const { normalizer, model, pre_tokenizer: words, added_tokens: added } = file;
    const ours =
      normalizer?.type === "BertNormalizer" && normalizer.lowercase && normalizer.clean_text && normalizer.strip_accents !== false &&
      normalizer.handle_chinese_chars && words?.type === "BertPreTokenizer" && model?.type === "WordPiece" &&
      model.continuing_subword_prefix === "##" && (model.max_input_chars_per_word ?? LONGEST_WORD) === LONGEST_WORD &&
      added.every((token) => !token.normalized && !token.single_word && !token.lstrip && !token.rstrip);
    if (!ours) throw new Error("The bundle's tokenizer is not BERT's uncased WordPiece: this page can't run it.");
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.words = [];
    for (const [word, id] of this.vocabulary) this.words[id] = word;
    this.special = new Map(added.map((token) => [token.content, token.id]));
    for (const [word, id] of this.special) this.words[id] = word;
    this.unknown = this.vocabulary.get(model.unk_token);
    const escaped = [...this.special.keys()].map((token) => token.replace(/[[\]]/g, "\\$&"));
    this.marks = new RegExp(escaped.join("|"), "gu");
    this.id = (token) => this.special.get(token) ?? this.vocabulary.get(token);
  }

  /**
   * The tokens of a text, which is an array of characters (code points), without special tokens: `ids`, `starts` and
   * `ends` (indices in that array), and `words`, the number of each token's word.
   */
  encode(characters) {
    const found = { ids: [], starts: [], ends: [], words: [] };
    const text = characters.join("");
    let word = 0;
    let unit = 0;
    let place = 0;
    const skip = (to) => {
      const first = place;
      for (; unit < to; place++) unit += characters[place].length;
      return first;
    };
    for (const match of text.matchAll(this.marks)) {
      const first = skip(match.index);
      word = this.#part(characters, first, place, word, found);
      const start = skip(match.index + match[0].length);
      found.ids.push(this.special.get(match[0]));
      found.starts.push(start);
      found.ends.push(place);
      found.words.push(word++);
    }
    this.#part(characters, place, characters.length, word, found);
    return found;
  }

  #part(characters, from, to, word, found) {
    // The normalised letters, and the index of the character that each comes from.
    let letters = [];
    let places = [];
    for (let place = from; place < to; place++) {
      for (const letter of normalize(characters[place])) {
        letters.push(letter);
        places.push(place);
      }
    }
    order(letters);
    let begin = 0;
    const flush = (end) => {
      if (end > begin) this.#pieces(letters, places, begin, end, word++, found);
    };
    for (let at = 0; at < letters.length; at++) {
      if (letters[at] === " ") {
        flush(at);
        begin = at + 1;
      } else if (inRanges(tables.punctuation, letters[at].codePointAt(0))) {
        flush(at);
        begin = at;
        flush(at + 1);
        begin = at + 1;
      }
    }
    flush(letters.length);
    return word;
  }

  #pieces(letters, places, begin, end, word, found) {
    const pieces = [];
    let at = begin;
    while (at < end && end - begin <= LONGEST_WORD) {
      let stop = end;
      let id;
      for (; stop > at; stop--) {
        id = this.vocabulary.get((at > begin ? "##" : "") + letters.slice(at, stop).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      pieces.push([id, at, stop]);
      at = stop;
    }
    for (const [id, start, stop] of at === end ? pieces : [[this.unknown, begin, end]]) {
      found.ids.push(id);
      found.starts.push(places[start]);
      found.ends.push(places[stop - 1] + 1);
      found.words.push(word);
    }
  }
}

// Sort consecutive combining marks into canonical order. As in Python, their offsets aren't sorted.
function order(letters) {
  for (let at = 1; at < letters.length; at++) {
    const own = tables.combining[letters[at]];
    if (own === undefined) continue;
    let to = at;
    while (to > 0 && (tables.combining[letters[to - 1]] ?? 0) > own) to--;
    if (to < at) letters.splice(to, 0, ...letters.splice(at, 1));
  }
}
