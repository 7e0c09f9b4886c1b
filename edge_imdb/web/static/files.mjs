// Files of reviews: CSV, TSV, JSON, JSON Lines and text become rows, by the rules of `edge-imdb predict` and `edge-imdb
// score`; rows and their labels become a CSV.
//
// A cell is a string, null (an empty value), or a Raw: a number, boolean, list or object of a JSON file.

const LIKELY = ["text", "review", "sentence", "comment", "content", "body"];
const TABLES = { csv: "CSV", tsv: "TSV", json: "JSON", jsonl: "JSON Lines", ndjson: "JSON Lines" };
const TEXT = ["", "txt", "text", "log"];
const KINDS = ".csv, .tsv, .json, .jsonl, .ndjson, .txt, .text or .log, each also with .gz behind it";
const DELIMITERS = [";", "\t", "|"];
const PREFIX = "predicted_";
// Deeper nesting is refused, as Python's json module refuses it.
const DEEPEST = 500;

/** A value of a JSON file that is neither a string nor null, as its source text, so that long numbers keep their digits. */
export class Raw {
  constructor(source) {
    this.source = source;
  }
}

/** The kind of a file by its name: `{ kind, packed }`. Throws an Error if the page can't read it. */
function kindOf(name) {
  const parts = name.toLowerCase().split(".").slice(1);
  const packed = parts.at(-1) === "gz" ? parts.pop() : "";
  const extension = parts.at(-1) ?? "";
  if (TABLES[extension]) return { kind: TABLES[extension], packed };
  if (TEXT.includes(extension)) return { kind: "text", packed };
  const instead = ["parquet", "zst"].includes(extension) ? "use edge-imdb score, which reads it, or save it as" : "use";
  throw new Error(`${name} is of a kind that this page can't read (.${extension}): ${instead} ${KINDS}.`);
}

/** Read a File or Blob. Like `parse`, but also decompresses .gz. */
export async function read(name, blob) {
  const { packed } = kindOf(name);
  let bytes;
  try {
    const stream = packed ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
    bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  } catch (error) {
    throw new Error(packed ? `${name} is damaged or not a gzip file: make it again.` : `${name} can't be read (${error.message}).`);
  }
  return parse(name, bytes);
}

/**
 * The table in a file's bytes: `{ columns, rows, places, likely }`. Each row is a list of cells; `places` has the place of
 * each row in the file, such as "line 3"; `likely` is the index of the column that seems to hold the texts.
 * Throws an Error whose message is for the user.
 */
export function parse(name, bytes) {
  const { kind } = kindOf(name);
  const content = decode(name, bytes);
  const table = { text: lines, CSV: separated, TSV: separated, JSON: json, "JSON Lines": json }[kind](name, content, kind);
  if (!table.rows.length) throw new Error(`${name} has no rows: give a file with at least one review.`);
  return { ...table, likely: Math.max(0, table.columns.findIndex((column) => LIKELY.includes(column.toLowerCase()))) };
}

/** The texts of one column; null becomes "". Throws an Error for a number, a list or another value that isn't text. */
export function textsOf(name, { columns, rows, places }, column) {
  return rows.map((row, index) => {
    const cell = row[column];
    if (cell instanceof Raw) {
      throw new Error(`${name} ${places[index]} has ${cell.source.slice(0, 80)} in column "${columns[column]}": a text is needed.`);
    }
    return cell ?? "";
  });
}

/** A CSV of the rows with their labels and scores. `results` has `{ label, score }` or null for each row. */
export function render(columns, rows, results) {
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  let added = ["label", "score"];
  // Like edge-imdb score: a column of the input keeps its name.
  while (added.some((column) => columns.includes(column))) added = added.map((column) => PREFIX + column);
  const all = [[...columns, ...added]];
  rows.forEach((row, index) => {
    const result = results[index];
    all.push([...row.map(shown), result?.label ?? "", result?.score.toFixed(4) ?? ""]);
  });
  return all.map((row) => (row.length === 1 && row[0] === "" ? '""' : row.map(quote).join(","))).join("\r\n") + "\r\n";
}

function shown(cell) {
  if (cell instanceof Raw) return cell.source === "NaN" ? "" : cell.source;
  return cell ?? "";
}

function decode(name, bytes) {
  const encoding = bytes[0] === 0xff && bytes[1] === 0xfe ? "utf-16le" : bytes[0] === 0xfe && bytes[1] === 0xff ? "utf-16be" : "utf-8";
  try {
    // It also removes a byte order mark.
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${name} is not ${encoding.startsWith("utf-16") ? "UTF-16, as its first bytes say" : "UTF-8"}: save it as UTF-8 and try again.`);
  }
}

function splitLines(content) {
  const all = content.split(/\r\n|\r|\n/);
  if (all.at(-1) === "") all.pop();
  return all;
}

function lines(name, content) {
  const rows = splitLines(content).map((line) => [line]);
  return { columns: ["text"], rows, places: rows.map((_, index) => `line ${index + 1}`) };
}

/* CSV and TSV, by the rules of Python's csv module */

function separated(name, content, kind) {
  const head = content.slice(0, content.search(/[\r\n]|$/));
  const usual = kind === "TSV" ? "\t" : ",";
  // There is no --delimiter here, so another delimiter is taken if the header has no usual one.
  const delimiter = head.includes(usual) ? usual : DELIMITERS.find((sign) => head.includes(sign)) ?? usual;
  const records = csvRecords(name, content, delimiter);
  const [columns] = records.splice(0, 1).map((record) => record.fields);
  if (!columns) return { columns: [], rows: [], places: [] };
  const double = columns.find((column, index) => columns.indexOf(column) < index);
  if (double !== undefined) throw new Error(`${name} has two columns named "${double}": give each its own name.`);
  for (const { fields, line } of records) {
    if (fields.length === columns.length) continue;
    const sign = delimiter === "\t" ? "tabs" : `"${delimiter}"`;
    throw new Error(
      `${name} line ${line} has ${fields.length} fields, but the header has ${columns.length}: put texts that hold ${sign} between double quotes.`,
    );
  }
  return { columns, rows: records.map(({ fields }) => fields), places: records.map(({ line }) => `line ${line}`) };
}

// The records of a CSV with the lines on which they begin. Empty lines are left out.
function csvRecords(name, content, delimiter) {
  const records = [];
  let fields = [];
  let line = 1;
  let first = 1;
  let at = 0;
  const plain = new RegExp(`[^${delimiter}\r\n]*`, "y");
  const take = (pattern) => {
    pattern.lastIndex = at;
    const [part] = pattern.exec(content);
    at += part.length;
    return part;
  };
  while (at < content.length) {
    let quoted = false;
    let field;
    if (content[at] === '"') {
      quoted = true;
      const begin = line;
      at++;
      field = takeQuoted(content, at);
      if (field === null) throw new Error(`${name} line ${begin}: the quote that begins here has no end: close it, or write "" for a quote in a text.`);
      at += field.length + 1;
      line += field.split(/\r\n|\r|\n/).length - 1;
      field = field.replaceAll('""', '"');
      if (at < content.length && content[at] !== delimiter && !/[\r\n]/.test(content[at])) {
        throw new Error(`${name} line ${line} has text behind a closing quote: write "" for a quote in a text.`);
      }
    } else field = take(plain);
    fields.push(field);
    if (content[at] === delimiter) {
      at++;
      // A delimiter at the end of the file is followed by an empty field.
      if (at < content.length) continue;
      fields.push("");
    }
    if (fields.length > 1 || field !== "" || quoted) records.push({ fields, line: first });
    fields = [];
    if (content[at] === "\r" && content[at + 1] === "\n") at++;
    at++;
    line++;
    first = line;
  }
  return records;
}

// The part of a quoted field before its closing quote, doubled quotes as they are; null if it isn't closed.
function takeQuoted(content, begin) {
  for (let at = content.indexOf('"', begin); at >= 0; at = content.indexOf('"', at + 2)) {
    if (content[at + 1] !== '"') return content.slice(begin, at);
  }
  return null;
}

/* JSON and JSON Lines */

function json(name, content) {
  const found = /^\s*\[/.test(content) ? jsonArray(name, content) : jsonLines(name, content);
  const columns = [...new Set(found.flatMap(({ record }) => [...record.keys()]))];
  const rows = found.map(({ record }) => columns.map((column) => record.get(column) ?? null));
  return { columns, rows, places: found.map(({ place }) => place) };
}

function jsonLines(name, content) {
  return splitLines(content).flatMap((line, index) => {
    if (!line.trim()) return [];
    const record = recordOf(line);
    if (!record) throw new Error(`${name} line ${index + 1} is not a JSON object: write one such as {"text": "…"} on each line.`);
    return [{ record, place: `line ${index + 1}` }];
  });
}

function recordOf(text) {
  try {
    const reader = new Reader(text);
    const record = reader.record();
    return reader.atEnd() ? record : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function jsonArray(name, content) {
  const reader = new Reader(content);
  const found = [];
  reader.sign("[");
  if (!reader.is("]")) {
    do {
      const place = `row ${found.length + 1}`;
      if (!reader.is("{")) throw new Error(`${name} ${place} is not a JSON object: give an array such as [{"text": "…"}, …].`);
      try {
        found.push({ record: reader.record(), place });
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        throw new Error(`${name} ${place} is not valid JSON: correct it.`);
      }
    } while (reader.skip(","));
  }
  if (!reader.skip("]")) throw new Error(`${name} row ${found.length} isn't followed by a comma or by the end of the array: correct it.`);
  if (!reader.atEnd()) throw new Error(`${name} has text after its array: give one array of objects, or use .jsonl.`);
  return found;
}

// Reads JSON and keeps the source of numbers: JSON.parse would round those of more than 15 digits. Like Python's json
// module, it takes NaN and Infinity. Throws a SyntaxError.
class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  #match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at += found[0].length;
    return found;
  }

  #space() {
    this.#match(/[ \t\r\n]*/y);
  }

  is(sign) {
    this.#space();
    return this.text[this.at] === sign;
  }

  skip(sign) {
    const there = this.is(sign);
    if (there) this.at++;
    return there;
  }

  sign(sign) {
    if (!this.skip(sign)) throw new SyntaxError(`"${sign}" is missing`);
  }

  atEnd() {
    this.#space();
    return this.at === this.text.length;
  }

  // A Map from the keys of an object to cells.
  record() {
    const record = new Map();
    this.sign("{");
    if (this.skip("}")) return record;
    do {
      const key = this.#string();
      this.sign(":");
      record.set(key, this.#cell());
    } while (this.skip(","));
    this.sign("}");
    return record;
  }

  #cell() {
    if (this.is('"')) return this.#string();
    const start = this.at;
    this.#value(0);
    const source = this.text.slice(start, this.at);
    return source === "null" ? null : new Raw(source);
  }

  #string() {
    this.#space();
    const found = this.#match(/"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"/y);
    if (!found) throw new SyntaxError("not a string");
    return JSON.parse(found[0]);
  }

  #value(depth) {
    if (depth > DEEPEST) throw new SyntaxError("nested too deeply");
    if (this.is('"')) this.#string();
    else if (this.skip("[")) {
      if (this.skip("]")) return;
      do this.#value(depth + 1);
      while (this.skip(","));
      this.sign("]");
    } else if (this.skip("{")) {
      if (this.skip("}")) return;
      do {
        this.#string();
        this.sign(":");
        this.#value(depth + 1);
      } while (this.skip(","));
      this.sign("}");
    } else if (!this.#match(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null|NaN|-?Infinity/y)) {
      throw new SyntaxError("not a value");
    }
  }
}
