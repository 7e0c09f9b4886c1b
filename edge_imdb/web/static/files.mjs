// Files of reviews: CSV, JSON Lines and text become rows; labels become a CSV.

const LIKELY = ["text", "review", "sentence", "comment", "content", "body"];

/** `{ columns, rows }` of a file's content; throws an Error that says what is wrong. */
export function parse(name, content) {
  content = content.replace(/^\ufeff/, "");
  const found = /\.csv$/i.test(name) ? csv(content) : /\.(jsonl|ndjson|json)$/i.test(name) ? jsonLines(content) : lines(content);
  if (!found.rows.length) throw new Error(`${name} has no rows: give a file with at least one review.`);
  return { ...found, likely: Math.max(0, found.columns.findIndex((column) => LIKELY.includes(column.toLowerCase()))) };
}

function lines(content) {
  const rows = content.split(/\r\n|\r|\n/);
  if (rows.at(-1) === "") rows.pop();
  return { columns: ["text"], rows: rows.map((row) => [row]) };
}

function jsonLines(content) {
  const records = content.split("\n").flatMap((line, number) => {
    if (!line.trim()) return [];
    try {
      return [JSON.parse(line)];
    } catch {
      throw new Error(`Line ${number + 1} is not JSON: give one object per line.`);
    }
  });
  const columns = [...new Set(records.flatMap((record) => Object.keys(Object(record))))];
  return { columns, rows: records.map((record) => columns.map((column) => String(record[column] ?? ""))) };
}

function csv(content) {
  const rows = [];
  let row = [];
  let field = "";
  let quoted = false;
  for (let at = 0; at < content.length; at++) {
    const character = content[at];
    if (quoted) {
      if (character !== '"') field += character;
      else if (content[at + 1] === '"') field += content[++at];
      else quoted = false;
    } else if (character === '"' && field === "") quoted = true;
    else if (character === ",") row.push(field), (field = "");
    else if (character === "\n" || character === "\r") {
      if (character === "\r" && content[at + 1] === "\n") at++;
      rows.push([...row, field]);
      row = [];
      field = "";
    } else field += character;
  }
  if (quoted) throw new Error("A quote in the CSV has no end: save it again.");
  if (field || row.length) rows.push([...row, field]);
  const [columns = [], ...rest] = rows.filter((cells) => cells.length > 1 || cells[0] !== "");
  return { columns, rows: rest.map((cells) => columns.map((_, index) => cells[index] ?? "")) };
}

/** A CSV of the rows, with a label and a score behind each. */
export function render(columns, rows, results) {
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const all = [[...columns, "label", "score"], ...rows.map((row, index) => [...row, results[index]?.label ?? "", results[index]?.score.toFixed(4) ?? ""])];
  return all.map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
}
