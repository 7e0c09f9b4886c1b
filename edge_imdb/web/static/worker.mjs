// The worker loads and runs the models, so that the page never freezes. It explains only the newest of several waiting texts.

import { FillMask, Sentiment, readFile } from "./edge-imdb.mjs";

const KEPT = "edge-imdb-bundles";
// Milliseconds. Threads that haven't started by then never will.
const PATIENCE = 30_000;
const keeping = [];
const queue = { explain: null, fill: null, rows: null };
let busy = false;
let site;
let ort;
let threads;
let instead;
let sentiment;
let fillMask;

self.addEventListener("message", ({ data }) => {
  if (data.type === "start") start(data);
  else {
    queue[data.type] = data.cancel ? null : { ...data, at: 0 };
    pump();
  }
});

function fail(error, what) {
  if (error.file && self.caches) caches.open(KEPT).then(async (cache) => {
    // The cached file is damaged: remove it, so that the next visit fetches it again.
    for (const request of await cache.keys()) if (request.url.startsWith(new URL(error.file, location.href).href)) await cache.delete(request);
  });
  postMessage({ type: "failed", what, message: error.message ?? String(error), instead });
}

// Read a file and cache it. Its address contains its sha256, so it never changes, and the next visit needs no network.
async function readAndKeep(base, name, entry, progress) {
  const bytes = await readFile(base, name, entry, progress, entry && self.caches ? keptOrFetched : fetch);
  if (entry && self.caches) keeping.push(keep(`${base}/${name}?sha256=${entry.sha256}`, bytes));
  return bytes;
}

async function keptOrFetched(address, options) {
  // Private windows may have no cache.
  const kept = await caches.open(KEPT).then((cache) => cache.match(address)).catch(() => undefined);
  // Not streamed: in a worker, Firefox may never end the stream of a cached file (huggingface/transformers.js#373).
  return kept ? new Response(await kept.arrayBuffer()) : fetch(address, options);
}

async function keep(address, bytes) {
  try {
    const cache = await caches.open(KEPT);
    if (await cache.match(address)) return true;
    await cache.put(address, new Response(bytes));
    // Remove older versions of the file.
    const { href, pathname } = new URL(address, location.href);
    for (const { url } of await cache.keys()) {
      if (new URL(url).pathname === pathname && url !== href) await cache.delete(url);
    }
    return true;
  } catch {
    // The browser's storage is full.
    return false;
  }
}

// The runtime always reserves 4 GiB of shared memory, which iOS refuses. This reserves 1 GiB; both models together need less
// than a tenth of that.
function reserveLess() {
  const { Memory } = WebAssembly;
  const pages = 16384;
  WebAssembly.Memory = class extends Memory {
    constructor(given) {
      super(given.shared ? { ...given, maximum: Math.min(given.maximum, pages) } : given);
    }
  };
}

async function start(given) {
  ({ site, threads, instead } = given);
  if (instead === "memory") reserveLess();
  const begin = performance.now();
  try {
    const manifest = JSON.parse(new TextDecoder().decode(await readFile(site.bundles.sentiment, "edge.json")));
    const wasm = "vendor/ort-wasm-simd-threaded.wasm";
    const total = site.files[wasm].bytes + Sentiment.bytes(manifest, "explain");
    const seen = { runtime: 0, model: 0 };
    const progress = (part) => (bytes) => {
      seen[part] = bytes;
      postMessage({ type: "progress", what: "sentiment", bytes: seen.runtime + seen.model, total });
    };
    const runtime = async () => {
      ort = await import("./vendor/ort.wasm.min.mjs");
      ort.env.wasm.wasmBinary = await readAndKeep(".", wasm, site.files[wasm], progress("runtime"));
      ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
      ort.env.wasm.numThreads = threads;
      ort.env.wasm.initTimeout = threads > 1 ? PATIENCE : 0;
    };
    const parts = runtime();
    sentiment = await Sentiment.load({
      // The weights may arrive before the runtime, so the runtime is looked up only when it is used.
      ort: { get Tensor() { return ort.Tensor; }, InferenceSession: { create: async (...all) => (await parts, ort.InferenceSession.create(...all)) } },
      model: site.bundles.sentiment,
      manifest,
      progress: progress("model"),
      read: readAndKeep,
      options: { executionProviders: ["wasm"] },
    });
    await parts;
    postMessage({ type: "ready", labels: sentiment.labels, threads, instead, ms: performance.now() - begin });
    pump();
    if (keeping.length && (await Promise.all(keeping)).every(Boolean)) postMessage({ type: "kept" });
  } catch (error) {
    fail(error, "sentiment");
  }
}

const turn = () => new Promise((resolve) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = resolve;
  port2.postMessage(null);
});

async function pump() {
  if (busy || !sentiment) return;
  busy = true;
  for (;;) {
    // Receive the messages that arrived during the last run.
    await turn();
    if (queue.explain) await explain(take("explain"));
    else if (queue.fill) await fill(take("fill"));
    else if (queue.rows) await row(queue.rows);
    else break;
  }
  busy = false;
}

function take(name) {
  const job = queue[name];
  queue[name] = null;
  return job;
}

async function explain({ id, text }) {
  try {
    const begin = performance.now();
    const result = await sentiment.explain(text);
    postMessage({ type: "explained", id, text, result, ms: performance.now() - begin });
  } catch (error) {
    if (error instanceof RangeError) postMessage({ type: "explained", id, text, result: null });
    else fail(error, "explain");
  }
}

async function fill({ id, text, joint }) {
  try {
    if (!fillMask) {
      const manifest = JSON.parse(new TextDecoder().decode(await readFile(site.bundles["fill-mask"], "edge.json")));
      const total = FillMask.bytes(manifest, "int8");
      fillMask = await FillMask.load({
        ort,
        model: site.bundles["fill-mask"],
        manifest,
        progress: (bytes) => postMessage({ type: "progress", what: "fill-mask", bytes, total }),
        read: readAndKeep,
        options: { executionProviders: ["wasm"] },
      });
      // If the user has typed on while the model loaded, fill the newer text instead.
      await turn();
      if (queue.fill) return;
    }
    postMessage({ type: "filled", id, text, joint, result: await fillMask.fill(text, { topK: joint ? 5 : 8, joint }) });
  } catch (error) {
    fail(error, "fill");
  }
}

async function row(job) {
  const index = job.at++;
  let result = null;
  try {
    result = await sentiment.label(job.texts[index]);
  } catch (error) {
    if (!(error instanceof RangeError)) {
      queue.rows = null;
      fail(error, "rows");
      return;
    }
  }
  if (queue.rows === job && job.at === job.texts.length) queue.rows = null;
  postMessage({ type: "row", id: job.id, index, result });
}
