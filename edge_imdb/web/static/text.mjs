// clean and cleanWithSpans: remove markup from a review and spell out emoji, exactly as edge_imdb/data/text.py does.

import tables from "./tables.mjs";

// The characters that Python counts as white space. JavaScript's \s differs.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const BREAK = new RegExp(`<[${SPACE}]*/?[${SPACE}]*[bB][rR][${SPACE}]*/?[${SPACE}]*>`, "gu");
const ENTITY = /&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});/gu;
const EMOJI = new RegExp(tables.emoji, "gu");
const MODIFIER = new RegExp(tables.modifier, "gu");
const RATING = new RegExp(tables.rating, "u");
const CONTROL = /^[\x00-\x1f\x7f-\x9f\p{Cs}]$/u;
const WHITE = new RegExp(`^[${SPACE}]$`, "u");

export function inRanges(ranges, point) {
  let low = 0;
  let high = ranges.length >> 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (point > ranges[2 * middle + 1]) low = middle + 1;
    else high = middle;
  }
  return low < ranges.length >> 1 && point >= ranges[2 * low];
}

// Decode one HTML entity, like Python's html.unescape.
function unescape(entity) {
  const body = entity.slice(1);
  if (body[0] === "#") {
    const digits = body.slice(1, -1);
    const number = /^[xX]/.test(digits) ? parseInt(digits.slice(1), 16) : parseInt(digits, 10);
    if (Object.hasOwn(tables.charrefs, number)) return tables.charrefs[number];
    if ((number >= 0xd800 && number <= 0xdfff) || number > 0x10ffff) return "\ufffd";
    return inRanges(tables.noncharacters, number) ? "" : String.fromCodePoint(number);
  }
  if (Object.hasOwn(tables.entities, body)) return tables.entities[body];
  for (let length = body.length - 1; length > 1; length--) {
    const name = body.slice(0, length);
    if (Object.hasOwn(tables.entities, name)) return tables.entities[name] + body.slice(length);
  }
  return entity;
}

// The words for one match of EMOJI, between spaces. See edge_imdb/data/emoji.py.
function wordsFor(match) {
  const emoji = match.replace(MODIFIER, "");
  return ` ${Object.hasOwn(tables.spelled, emoji) ? tables.spelled[emoji] : stars([...emoji])} `;
}

function stars(run) {
  if (run.length === 1) return "star";
  const rating = RATING.exec(run.join(""));
  if (!rating || run.length > 10 || (run.length < 3 && rating[3])) return "stars";
  const [full, half, empty] = rating.slice(1).map((part) => [...part].length);
  if (full + half === 0 && empty !== 5 && empty !== 10) return "stars";
  const total = empty ? run.length : run.length <= 5 ? 5 : 10;
  return `${Math.floor((10 * (2 * full + half) + total) / (2 * total))} out of 10 stars`;
}

// Replace each match. Returns the new text and, for each of its UTF-16 units, the start and the end of its origin.
function substitute(pattern, replace, text, starts, ends) {
  const parts = [];
  const newStarts = [];
  const newEnds = [];
  let at = 0;
  const keep = (to) => {
    parts.push(text.slice(at, to));
    for (; at < to; at++) {
      newStarts.push(starts[at]);
      newEnds.push(ends[at]);
    }
  };
  for (const match of text.matchAll(pattern)) {
    keep(match.index);
    const made = replace(match[0]);
    at = match.index + match[0].length;
    parts.push(made);
    for (let unit = 0; unit < made.length; unit++) {
      newStarts.push(starts[match.index]);
      newEnds.push(ends[at - 1]);
    }
  }
  keep(text.length);
  return [parts.join(""), newStarts, newEnds];
}

/**
 * The characters (code points) of the cleaned text and, for each of them, the span of `text` that it comes from, in
 * UTF-16 units.
 */
export function cleanWithSpans(text) {
  let starts = Array.from({ length: text.length }, (_, unit) => unit);
  let ends = starts.map((unit) => unit + 1);
  [text, starts, ends] = substitute(BREAK, () => " ", text, starts, ends);
  if (text.includes("&")) {
    [text, starts, ends] = substitute(ENTITY, unescape, text, starts, ends);
    [text, starts, ends] = substitute(BREAK, () => " ", text, starts, ends);
  }
  [text, starts, ends] = substitute(EMOJI, wordsFor, text, starts, ends);
  const characters = [];
  const spans = [];
  let unit = 0;
  for (const character of text) {
    const span = [starts[unit], ends[unit + character.length - 1]];
    unit += character.length;
    if (!CONTROL.test(character) && !WHITE.test(character)) {
      characters.push(character);
      spans.push(span);
    } else if (characters.length && characters.at(-1) === " ") {
      spans.at(-1)[1] = span[1];
    } else if (characters.length) {
      characters.push(" ");
      spans.push(span);
    }
  }
  if (characters.at(-1) === " ") {
    characters.pop();
    spans.pop();
  }
  return { characters, spans };
}

export function clean(text) {
  return cleanWithSpans(text).characters.join("");
}

/** The indices, from 0 to `length` - 1, of the tokens that truncation keeps: a head and a tail. Like Truncation.cut. */
export function cut(length, maxLength, headRatio) {
  const kept = maxLength - 2;
  const indices = Array.from({ length }, (_, index) => index);
  if (length <= kept) return indices;
  const exact = kept * headRatio;
  // Like Python's round: a half goes to the even number.
  let head = Math.floor(exact);
  if (exact - head > 0.5 || (exact - head === 0.5 && head % 2 === 1)) head += 1;
  return [...indices.slice(0, head), ...indices.slice(length - (kept - head))];
}
