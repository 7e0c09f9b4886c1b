// The weight of each word and sentence, like edge_imdb/tasks/sentiment/attribution.py. Spans are in UTF-16 units of the text as given.

import { cleanWithSpans } from "./text.mjs";

// Match only at the start of a run of signs: starting at each of 100,000 signs would take minutes.
const END = /(?<![.!?…])([.!?…]+)["'”’)\]]*(?= )/gu;
const DOTS = /^(?:\.\.+|…+)$/u;
const ABBREVIATION = /(?:^|[^A-Za-z])(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])$/u;
const LETTER = /^[\p{L}\p{N}]$/u;
const MARK = /^\p{M}$/u;
const JOINTS = new Set(["'", "’", "-"]);

/** The tokens of a review with their spans, words and sentences. Throws a RangeError if the text is blank. */
export function locate(tokenizer, text) {
  const { characters, spans } = cleanWithSpans(text);
  const { ids, starts, ends, words } = tokenizer.encode(characters);
  if (!ids.length) throw new RangeError("The text is blank: give a review with at least one visible character.");
  ends.forEach((_, index) => {
    const following = starts[index + 1] ?? characters.length;
    ends[index] = Math.max(ends[index], starts[index] + 1);
    while (ends[index] < following && MARK.test(characters[ends[index]])) ends[index]++;
  });
  const places = starts.map((start, index) => [spans[start][0], spans[ends[index] - 1][1]]);
  const stops = sentenceEnds(characters, text, spans);
  let sentence = 0;
  const sentences = starts.map((start) => {
    while (sentence < stops.length && stops[sentence] <= start) sentence++;
    return sentence;
  });
  const numbers = joined(characters, starts, ends, places, words);
  return { ids, spans: places, words: numbers, sentences, dropped: dropped(text, places) };
}

// For each token the number of its word: the tokenizer's words, joined at apostrophes and hyphens. The words of an emoji,
// which have the same span in the text as given, are also joined.
function joined(characters, starts, ends, places, numbers) {
  const parts = [];
  const sameEmoji = (index) => index > 0 && places[index].every((value, side) => value === places[index - 1][side]);
  numbers.forEach((number, index) => {
    if (index && number === numbers[index - 1]) Object.assign(parts.at(-1), { end: ends[index], count: parts.at(-1).count + 1 });
    else parts.push({ start: starts[index], end: ends[index], count: 1, sameEmoji: sameEmoji(index) });
  });
  const joint = (index) => {
    const { start, end } = parts[index] ?? {};
    return (
      end === start + 1 && JOINTS.has(characters[start]) && index > 0 && index + 1 < parts.length &&
      parts[index - 1].end === start && parts[index + 1].start === end &&
      LETTER.test(characters[start - 1]) && LETTER.test(characters[end])
    );
  };
  let word = -1;
  return parts.flatMap((part, index) => {
    if (!joint(index) && !(index && joint(index - 1)) && !part.sameEmoji) word++;
    return Array(part.count).fill(word);
  });
}

function sentenceEnds(characters, text, spans) {
  const cleaned = characters.join("");
  // The number of the character at each UTF-16 unit.
  const number = [];
  characters.forEach((character, index) => {
    for (let unit = 0; unit < character.length; unit++) number.push(index);
  });
  const ends = new Set();
  for (const match of cleaned.matchAll(END)) {
    const stop = match.index + match[0].length;
    const goesOn = DOTS.test(match[1]) && /^[a-z]$/.test(cleaned[stop + 1]);
    const before = characters.slice(Math.max(0, number[match.index] - 5), number[match.index]).join("");
    if (!goesOn && !(match[1] === "." && ABBREVIATION.test(before))) ends.add(number[stop]);
  }
  characters.forEach((character, index) => {
    if (character !== " ") return;
    const gap = text.slice(...spans[index]);
    if (gap.includes("<") || gap.split("\n").length > 2) ends.add(index);
  });
  return [...ends].sort((a, b) => a - b);
}

function dropped(text, places) {
  const found = [];
  let reached = 0;
  for (const [start, end] of [...places, [text.length, text.length]]) {
    const gap = text.slice(reached, Math.max(reached, start));
    if (gap.trim()) {
      const first = reached + gap.length - gap.trimStart().length;
      found.push([first, first + gap.trim().length]);
    }
    reached = Math.max(reached, end);
  }
  return found;
}

const unique = (numbers) => [...new Set(numbers)].sort((a, b) => a - b);

/** The graph's input `kept` for the tokens at `places`, and its number of rows. */
export function subsets(located, places) {
  const width = places.length + 2;
  // All tokens, then only the special tokens, which are always read.
  const rows = [new Float32Array(width).fill(1), new Float32Array(width)];
  rows[1][0] = rows[1][width - 1] = 1;
  const add = (of, alone) => {
    for (const number of unique(places.map((place) => of[place]))) {
      const row = new Float32Array(width).fill(alone ? 0 : 1);
      if (alone) row[0] = row[width - 1] = 1;
      places.forEach((place, index) => {
        if (of[place] === number) row[index + 1] = alone ? 1 : 0;
      });
      rows.push(row);
    }
  };
  for (const of of [located.words, located.sentences]) {
    add(of, false);
    add(of, true);
  }
  const kept = new Float32Array(rows.length * width);
  rows.forEach((row, index) => kept.set(row, index * width));
  return { kept, rows: rows.length };
}

/** `toward`, `margin`, `words`, `sentences` and `unread`, like Sentiment.explain in Python. */
export function attribute(text, located, { places, logits, subsetLogits }, labels, temperature) {
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  const [toward, against] = labels.length === 2 ? [1, 0] : order;
  const margin = (values, row) => (values[row * labels.length + toward] - values[row * labels.length + against]) / temperature;
  const [whole, nothing] = [margin(subsetLogits, 0), margin(subsetLogits, 1)];
  const extents = (numbers) => {
    const found = new Map();
    for (const place of places) {
      const [start, end] = located.spans[place];
      const [first, last] = found.get(numbers[place]) ?? [start, end];
      found.set(numbers[place], [Math.min(first, start), Math.max(last, end)]);
    }
    return [...found.entries()].sort(([a], [b]) => a - b).map(([, span]) => span);
  };
  let row = 2;
  // For each of `parts`: the margin without it, and the margin with only it.
  const margins = (parts) => {
    const first = row;
    row += 2 * parts.length;
    return parts.map(([start, end], index) => [start, end, margin(subsetLogits, first + index), margin(subsetLogits, first + parts.length + index)]);
  };
  const words = margins(extents(located.words)).map(([start, end, without, alone]) => ({
    word: text.slice(start, end), start, end, weight: (whole - without + alone - nothing) / 2,
  }));
  const sentences = margins(extents(located.sentences)).map(([start, end, without, alone]) => ({
    start, end, weight: whole - without, alone,
  }));
  return { toward: labels[toward], margin: margin(logits, 0), words, sentences, unread: unread(located, places) };
}

function unread(located, places) {
  // An emoji has several tokens with one span. It counts as read if any of them was.
  const read = new Set(places.map((place) => String(located.spans[place])));
  const cuts = [];
  let open = false;
  located.spans.forEach(([start, end]) => {
    if (read.has(`${start},${end}`)) open = false;
    else if (open) cuts.at(-1).end = end;
    else {
      cuts.push({ start, end, why: "cut" });
      open = true;
    }
  });
  const rest = located.dropped
    .filter(([start, end]) => !cuts.some((cut) => cut.start <= start && end <= cut.end))
    .map(([start, end]) => ({ start, end, why: "dropped" }));
  return [...cuts, ...rest].sort((a, b) => a.start - b.start || a.end - b.end);
}
