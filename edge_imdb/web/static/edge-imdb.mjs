// Sentiment and FillMask in JavaScript: a browser's page or worker, or Node with onnxruntime-node.
//
//   import * as ort from "onnxruntime-node";
//   import { Sentiment } from ".../edge-imdb.mjs";
//   const sentiment = await Sentiment.load({ ort, model: "folder/of/a/bundle" });
//   await sentiment.explain("The plot is thin but the leads are charming.");

import { attribute, locate, subsets } from "./attribution.mjs";
import { sha256 } from "./sha256.mjs";
import { clean, cleanWithSpans, cut } from "./text.mjs";
import { Tokenizer } from "./tokenizer.mjs";

export { clean, Tokenizer };

export const MASK = "[MASK]";
const FORMAT = 2;
const JOINT_MASKS = 8;

/** A file differs from its entry in the bundle. */
export class BundleError extends Error {
  constructor(message, file) {
    super(message);
    this.file = file;
  }
}

export function softmax(logits, temperature = 1) {
  const scaled = Float64Array.from(logits, (value) => value / temperature);
  const largest = scaled.reduce((a, b) => Math.max(a, b), -Infinity);
  const shares = scaled.map((value) => Math.exp(value - largest));
  const total = shares.reduce((a, b) => a + b, 0);
  return shares.map((share) => share / total);
}

/**
 * The bytes of a file, from the network in a browser and from the disk in Node. `progress` is called with the number of
 * bytes received, and `get` instead of fetch. Throws a BundleError if the file differs from `entry`, its size and sha256.
 */
export async function readFile(base, name, entry, progress = () => {}, get = fetch) {
  const place = `${String(base).replace(/\/$/, "")}/${name}`;
  let bytes;
  if (typeof process === "object" && process.versions?.node && !/^https?:/.test(place)) {
    const { readFile: read } = await import("node:fs/promises");
    bytes = new Uint8Array(await read(place.startsWith("file:") ? new URL(place) : place));
    progress(bytes.length);
  } else {
    const response = await get(entry ? `${place}?sha256=${entry.sha256}` : place, entry ? {} : { cache: "no-cache" });
    if (!response.ok) throw new BundleError(`${name} can't be loaded (HTTP ${response.status}): build the site again.`, place);
    bytes = await collect(response, entry?.bytes, progress);
  }
  if (entry && bytes.length !== entry.bytes) {
    throw new BundleError(`${name} has ${bytes.length} bytes instead of ${entry.bytes}: it was altered or truncated; reload the page.`, place);
  }
  if (entry && (await sha256(bytes)) !== entry.sha256) {
    throw new BundleError(`${name} differs from its sha256 in the bundle: it was altered; reload the page.`, place);
  }
  return bytes;
}

async function collect(response, size, progress) {
  let bytes = new Uint8Array(size ?? 0);
  let at = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (at + part.value.length > bytes.length) {
      const larger = new Uint8Array(Math.max(at + part.value.length, 2 * bytes.length));
      larger.set(bytes.subarray(0, at));
      bytes = larger;
    }
    bytes.set(part.value, at);
    at += part.value.length;
    progress(at);
  }
  return bytes.length === at ? bytes : bytes.subarray(0, at);
}

class Model {
  // `read` has the arguments of readFile. The page's worker gives one that caches files.
  static async load({ ort, model, manifest, graph, task, progress = () => {}, read = readFile, options = {} }) {
    const self = new this();
    self.ort = ort;
    const decode = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
    self.manifest = manifest ?? decode(await read(model, "edge.json"));
    if (self.manifest.format !== FORMAT || self.manifest.task !== task) {
      throw new BundleError(`${model} is not a ${task} bundle of format ${FORMAT}: export it again.`);
    }
    const names = self.constructor.files(self.manifest, graph);
    const files = self.manifest.files;
    const loaded = {};
    const done = {};
    for (const name of Object.values(names)) {
      if (!files[name]) throw new BundleError(`The bundle doesn't list ${name}: export it again.`);
    }
    const load = async (name) => {
      loaded[name] = await read(model, name, files[name], (bytes) => {
        done[name] = bytes;
        progress(Object.values(done).reduce((a, b) => a + b, 0));
      });
    };
    await Promise.all(Object.values(names).map(load));
    self.tokenizer = new Tokenizer(decode(loaded[names.tokenizer]));
    const path = names.weights.split("/").at(-1);
    self.session = await ort.InferenceSession.create(loaded[names.graph], {
      graphOptimizationLevel: "disabled",
      externalData: [{ path, data: loaded[names.weights] }],
      ...options,
    });
    return self;
  }

  /** The files of a bundle that are needed to run `graph`. */
  static files(manifest, graph) {
    const own = `${manifest.graphs[graph]}_data`;
    const weights = own in manifest.files ? own : "onnx/model_quantized.onnx_data";
    return { tokenizer: "tokenizer.json", graph: manifest.graphs[graph], weights };
  }

  /** The number of bytes of these files. */
  static bytes(manifest, graph) {
    return Object.values(this.files(manifest, graph)).reduce((sum, name) => sum + manifest.files[name].bytes, 0);
  }

  async run(ids, feed = {}) {
    const row = new this.ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const outputs = await this.session.run({ input_ids: row, ...feed });
    for (const output of Object.values(outputs)) {
      if (!output.data.every(Number.isFinite)) {
        throw new BundleError("The graph returned logits that are not numbers for this text: export the bundle again.");
      }
    }
    return outputs;
  }

  frame(ids) {
    return [this.tokenizer.id("[CLS]"), ...ids, this.tokenizer.id("[SEP]")];
  }

  async close() {
    await this.session.release();
  }
}

/** A sentiment bundle, opened with its explain graph. */
export class Sentiment extends Model {
  static async load(given) {
    return super.load({ graph: "explain", ...given, task: "sentiment" });
  }

  static files(manifest, graph = "explain") {
    if (!manifest.graphs[graph]) throw new BundleError("The bundle has no explain graph: export it again.");
    return super.files(manifest, graph);
  }

  get labels() {
    return this.manifest.labels;
  }

  async #read(located, maxLength, whole) {
    const places = cut(located.ids.length, maxLength, this.manifest.truncation.head_ratio);
    const ids = this.frame(places.map((place) => located.ids[place]));
    const { kept, rows } = whole ? subsets(located, places) : { kept: new Float32Array(ids.length).fill(1), rows: 1 };
    const outputs = await this.run(ids, { kept: new this.ort.Tensor("float32", kept, [rows, ids.length]) });
    return { places, logits: outputs.logits.data, subsetLogits: outputs.subset_logits.data };
  }

  async #label(text, whole, exact) {
    if (typeof text !== "string") throw new TypeError("The text isn't a string: give a string.");
    const located = locate(this.tokenizer, text);
    const first = exact ? null : this.manifest.early_exit;
    let reading;
    let temperature;
    let scores;
    if (first && located.ids.length + 2 > first.length) {
      temperature = first.temperature;
      reading = await this.#read(located, first.length, whole);
      scores = softmax(reading.logits, temperature);
      if (Math.max(...scores) < first.threshold) reading = undefined;
    }
    if (!reading) {
      temperature = this.manifest.calibration.temperature;
      reading = await this.#read(located, this.manifest.truncation.max_length, whole);
      scores = softmax(reading.logits, temperature);
    }
    const best = scores.indexOf(Math.max(...scores));
    const label = { label: this.labels[best], score: scores[best] };
    return { located, reading, temperature, label };
  }

  /** `{ label, score }` of a review. */
  async label(text, { exact = false } = {}) {
    return (await this.#label(text, false, exact)).label;
  }

  /** The label and the weights of words and sentences, like Sentiment.explain in Python. Spans are in UTF-16 units. */
  async explain(text, { exact = false } = {}) {
    const { located, reading, temperature, label } = await this.#label(text, true, exact);
    return { ...label, ...attribute(text, located, reading, this.labels, temperature) };
  }
}

/** A fill-mask bundle, opened. */
export class FillMask extends Model {
  static async load(given) {
    return super.load({ graph: "int8", ...given, task: "fill-mask" });
  }

  static files(manifest, graph = "int8") {
    return super.files(manifest, graph);
  }

  async #scores(ids, rows) {
    const { logits } = await this.run(this.frame(ids));
    const size = logits.dims[1];
    return Array.from({ length: rows }, (_, row) => softmax(logits.data.subarray(row * size, (row + 1) * size)));
  }

  /**
   * For each [MASK] in the text a list of `{ score, token, word }`, best first. With `joint`, a list of
   * `{ score, words }` that fill all masks together, like FillMask in Python.
   */
  async fill(text, { topK = 5, joint = false, beams = 10 } = {}) {
    const { ids } = this.tokenizer.encode(cleanWithSpans(text).characters);
    const mask = this.tokenizer.id(MASK);
    const masks = [...ids.keys()].filter((place) => ids[place] === mask);
    if (!masks.length) throw new RangeError(`There is no ${MASK} in the text: write ${MASK} where a word is to be filled in.`);
    const groups = windows(ids.length, masks, this.manifest.truncation.max_length - 2);
    const word = (token) => this.tokenizer.words[token];
    if (!joint) {
      const filled = [];
      for (const [start, stop] of groups) {
        const inside = masks.filter((place) => place >= start && place < stop && filled.length <= masks.indexOf(place));
        const all = masks.filter((place) => place >= start && place < stop);
        const scores = await this.#scores(ids.slice(start, stop), all.length);
        for (const place of inside) {
          const own = scores[all.indexOf(place)];
          filled.push(best(own, topK).map((token) => ({ score: own[token], token, word: word(token) })));
        }
      }
      return filled;
    }
    if (masks.length > JOINT_MASKS) throw new RangeError(`The text has ${masks.length} masks: joint fills ${JOINT_MASKS} at most.`);
    if (groups.length > 1) throw new RangeError("The masks are too far apart for the model to read them together: fill them without joint.");
    const [[start, stop]] = groups;
    const part = ids.slice(start, stop);
    const places = masks.map((place) => place - start);
    const special = new Set(this.tokenizer.special.values());
    let kept = [{ score: 0, tokens: [] }];
    for (let number = 0; number < places.length; number++) {
      const candidates = [];
      for (const { score, tokens } of kept) {
        const [scores] = await this.#scores(withTokens(part, places, tokens), places.length - number);
        for (const token of special) scores[token] = 0;
        for (const token of best(scores, Math.max(beams, topK))) {
          candidates.push({ score: score + log(scores[token]), tokens: [...tokens, token] });
        }
      }
      kept = candidates.sort((a, b) => b.score - a.score).slice(0, Math.max(beams, topK));
    }
    const found = [];
    for (const { tokens } of kept) {
      let score = 0;
      const whole = withTokens(part, places, tokens);
      for (let number = 0; number < places.length; number++) {
        const hidden = [...whole];
        hidden[places[number]] = mask;
        score += log((await this.#scores(hidden, 1))[0][tokens[number]]);
      }
      found.push({ score, words: tokens.map(word) });
    }
    return found.sort((a, b) => b.score - a.score).slice(0, topK);
  }
}

const log = (probability) => Math.log(Math.max(probability, 2.2250738585072014e-308));

function withTokens(ids, places, tokens) {
  const filled = [...ids];
  tokens.forEach((token, number) => (filled[places[number]] = token));
  return filled;
}

function best(scores, count) {
  return [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
}

/** Spans of at most `size` tokens that contain all masks; the masks of a span are in its middle. Like windows in Python. */
export function windows(length, masks, size) {
  const spans = [];
  for (let index = 0; index < masks.length; ) {
    const first = masks[index];
    while (index < masks.length && masks[index] - first < size) index++;
    const start = Math.max(0, Math.min(Math.floor((first + masks[index - 1] + 1 - size) / 2), length - size));
    spans.push([start, Math.min(length, start + size)]);
  }
  return spans;
}
