// The page: sends texts to the worker and shows its results.

import { read, render, textsOf } from "./files.mjs";

const EXAMPLES = [
  ["Mixed", "The plot is thin but the leads are charming."],
  ["Positive", "I went in expecting nothing and came out grinning. The script is sharp, the score is gorgeous, and not one scene is wasted."],
  ["Negative", "Two hours of people explaining the plot to each other. Wooden acting, dreadful dialogue, and an ending that makes no sense."],
  ["With a twist", "Everyone told me this was a masterpiece. It isn't. By the second act I was checking my watch, and I never stopped."],
  ["Fill a gap", "This is a great [MASK] with a [MASK] ending."],
];
const UNSURE = 0.75;
const STRONGEST = 1;
const WEAKEST = 0.05;
const MASK = "[MASK]";
const INSTEAD = {
  memory: "This browser doesn't allow enough memory for more threads.",
  timeout: "More threads didn't start in this browser.",
};
const $ = (id) => document.getElementById(id);
const text = $("text");
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let worker;
let site;
let labels = [];
let asked = 0;
let explained;
let filling;
let job;
let installed;

function show(id, visible = true) {
  $(id).hidden = !visible;
}

function tell(message) {
  $("error").textContent = message;
  show("error", Boolean(message));
}

/* Starting */

async function begin() {
  try {
    const response = await fetch("site.json");
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    site = await response.json();
  } catch (error) {
    tell(`The page can't load its list of files (${error.message}): check that its server is running, then reload the page.`);
    return;
  }
  // The service worker caches the page, and worker.mjs caches the models. Neither works in private windows or over plain HTTP.
  installed = navigator.serviceWorker?.register("sw.js").then(() => navigator.serviceWorker.ready).catch(() => undefined);
  const isolated = globalThis.crossOriginIsolated === true;
  startWorker(isolated ? Math.max(1, Math.min(4, navigator.hardwareConcurrency || 1)) : 1);
}

// `instead` is the reason for using fewer threads than this machine has: a key of INSTEAD.
function startWorker(threads, instead = "") {
  worker?.terminate();
  worker = new Worker("worker.mjs", { type: "module" });
  worker.onmessage = ({ data }) => receive[data.type](data);
  worker.onerror = (event) => tell(`The model can't start in this browser (${event.message || "no reason given"}): use a newer browser.`);
  worker.postMessage({ type: "start", site, threads, instead });
}

const receive = {
  progress({ what, bytes, total }) {
    const [line, bar] = what === "sentiment" ? ["loading-text", "loading-bar"] : ["fill-text", "fill-bar"];
    $(line).textContent = `Loading the ${what === "sentiment" ? "sentiment" : "fill-mask"} model: ${megabytes(bytes)} of ${megabytes(total)} MB`;
    $(bar).value = bytes / total;
    $(bar).hidden = false;
    if (bytes === total) $(line).textContent = "Getting ready …";
  },
  ready(data) {
    labels = data.labels;
    show("loading", false);
    document.body.dataset.ready = String(Math.round(performance.now()));
    $("left").textContent = labels[0];
    $("right").textContent = labels.at(-1);
    $("key-for").textContent = `for ${labels.at(-1)}`;
    $("key-against").textContent = `for ${labels[0]}`;
    $("engine").textContent = `Runs with ${data.threads} thread${data.threads > 1 ? "s" : ""} of WebAssembly, ready in ${(data.ms / 1000).toFixed(1)} s.`;
    if (data.instead) $("engine").textContent += ` ${INSTEAD[data.instead]}`;
    ask();
  },
  async kept() {
    if (await installed) $("engine").textContent += " Saved for offline use.";
  },
  failed({ what, message, instead }) {
    if (what === "sentiment" && !instead) {
      if (/due to timeout/i.test(message)) return startWorker(1, "timeout");
      // iOS can't reserve as much memory as the runtime asks for if there are several threads.
      if (/memory|allocat|thread|SharedArrayBuffer/i.test(message)) return startWorker(1, "memory");
    }
    if (what === "sentiment") show("loading", false);
    if (what === "fill") $("fill-text").textContent = "";
    tell(message);
  },
  explained({ id, text: of, result, ms }) {
    if (id !== asked) return;
    explained = result && { ...result, text: of };
    document.body.dataset.shown = String(id);
    document.body.dataset.ms = ms === undefined ? "" : ms.toFixed(1);
    document.body.dataset.first ??= String(Math.round(performance.now()));
    showVerdict();
  },
  filled({ id, result, joint }) {
    if (id === filling?.id) showFills(result, joint);
  },
  row(data) {
    if (data.id === job?.id) progressRows(data);
  },
};

/* The review */

function ask() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
  asked += 1;
  if (labels.length) worker.postMessage({ type: "explain", id: asked, text: text.value });
  document.body.dataset.asked = String(asked);
  const masks = text.value.split(MASK).length - 1;
  if (masks) askWords(text.value, null);
  else if (!filling?.word) closeWords();
}

function strength(weight, strongest = STRONGEST) {
  return Math.abs(weight) < WEAKEST ? 0 : Math.min(4, 1 + Math.floor((4 * Math.abs(weight)) / strongest));
}

const coloured = (weight, level) => (level ? `${weight > 0 ? "for" : "against"}${level}` : "");

function showVerdict() {
  show("verdict", Boolean(explained));
  if (!explained) return;
  const { label, score } = explained;
  $("label").textContent = label;
  $("label").className = label === labels.at(-1) ? "for" : label === labels[0] ? "against" : "";
  $("score").textContent = percent(score);
  show("unsure", score < UNSURE);
  if (labels.length === 2) $("needle").style.left = `${100 * (label === labels[1] ? score : 1 - score)}%`;
  show("key-unread", explained.unread.length > 0);
  showMarked();
}

function showMarked() {
  const by = document.querySelector("input[name=by]:checked").value;
  const { text: whole, words, sentences, unread } = explained;
  const marks = (by === "words" ? words : sentences).map((mark) => ({ ...mark, kind: by }));
  const overlaps = (part) => by === "sentences" && marks.some((mark) => mark.start <= part.start && part.end <= mark.end);
  marks.push(...unread.filter((part) => !overlaps(part)).map((part) => ({ ...part, kind: "unread" })));
  marks.sort((a, b) => a.start - b.start || a.end - b.end);
  const nodes = [];
  let at = 0;
  for (const mark of marks) {
    const start = Math.max(at, mark.start);
    if (start >= mark.end) continue;
    nodes.push(whole.slice(at, start), element(mark, whole.slice(start, mark.end)));
    at = mark.end;
  }
  nodes.push(whole.slice(at));
  $("marked").replaceChildren(...nodes);
  $("marked").querySelector("button")?.setAttribute("tabindex", "0");
  show("hint", by === "words" && Boolean(site.bundles["fill-mask"]));
  show("detail", false);
}

function element(mark, content) {
  const toward = (weight) => (weight > 0 ? labels.at(-1) : labels[0]);
  if (mark.kind === "unread") {
    const node = Object.assign(document.createElement("s"), { textContent: content });
    node.title = mark.why === "cut" ? "not read: the review is longer than the model's limit" : "not read: markup, or characters that the model doesn't know";
    return node;
  }
  if (mark.kind === "sentences") {
    const node = Object.assign(document.createElement("mark"), { textContent: content });
    node.className = coloured(mark.alone, strength(mark.alone, 3));
    node.title = `read alone: ${mark.alone > 0 ? "+" : ""}${mark.alone.toFixed(2)} for ${labels.at(-1)}`;
    return node;
  }
  const node = Object.assign(document.createElement("button"), { type: "button", textContent: content, tabIndex: -1 });
  node.className = coloured(mark.weight, strength(mark.weight));
  node.title = `${Math.abs(mark.weight).toFixed(2)} for ${toward(mark.weight)}`;
  node.setAttribute("aria-label", `${content}: ${node.title}`);
  node.addEventListener("click", () => choose(node, mark));
  return node;
}

function choose(node, mark) {
  for (const other of $("marked").querySelectorAll("[aria-pressed]")) other.removeAttribute("aria-pressed");
  node.setAttribute("aria-pressed", "true");
  const toward = mark.weight > 0 ? labels.at(-1) : labels[0];
  const line = document.createElement("span");
  line.textContent = `“${mark.word}” raises the log-odds of ${toward} by ${Math.abs(mark.weight).toFixed(2)}.`;
  $("detail").replaceChildren(line);
  if (site.bundles["fill-mask"]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Suggest other words" });
    button.addEventListener("click", () => {
      const whole = explained.text;
      askWords(whole.slice(0, mark.start) + MASK + whole.slice(mark.end), mark);
      $("fill").scrollIntoView({ block: "nearest" });
    });
    $("detail").append(button);
  }
  show("detail");
}

$("marked").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.target.tagName !== "BUTTON") return;
  event.preventDefault();
  const all = [...$("marked").querySelectorAll("button")];
  const next = all[all.indexOf(event.target) + step];
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});

/* Words for gaps */

function askWords(masked, word) {
  if (!site.bundles["fill-mask"]) return;
  filling = { id: (filling?.id ?? 0) + 1, masked, word };
  const several = masked.split(MASK).length > 2;
  show("fill");
  show("joint-choice", several);
  $("fill-title").textContent = word ? `Instead of “${word.word}”` : several ? "Words for the gaps" : "Words for the gap";
  if (!$("gaps").childElementCount) $("fill-text").textContent = "Looking …";
  const joint = several && $("joint").checked;
  if (labels.length) worker.postMessage({ type: "fill", id: filling.id, text: masked, joint });
}

function closeWords() {
  filling = undefined;
  $("gaps").replaceChildren();
  show("fill", false);
}

// Match the case of the word that is replaced (`instead`); without one, capitalise the first word of a sentence.
function cased(word, before, instead) {
  const letters = instead?.replace(/[^\p{L}]/gu, "") ?? "";
  if (letters.length > 1 && letters === letters.toUpperCase() && letters !== letters.toLowerCase()) return word.toUpperCase();
  const capital = instead ? /^\p{Lu}/u.test(instead) : /(^|[.!?]["'”’)]?\s+)$/u.test(before);
  return capital ? word.charAt(0).toUpperCase() + word.slice(1) : word;
}

function filled(masked, words, instead) {
  let result = "";
  masked.split(MASK).forEach((part, index) => {
    result += part;
    if (index < masked.split(MASK).length - 1) result += words[index] === undefined ? MASK : cased(words[index], result, instead);
  });
  return result;
}

function showFills(result, joint) {
  const { masked, word } = filling;
  const count = masked.split(MASK).length - 1;
  $("fill-bar").hidden = true;
  $("fill-text").textContent = "Select a word to put it into the review.";
  const option = (label, share, words) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(`${label} `, Object.assign(document.createElement("small"), { textContent: share }));
    button.addEventListener("click", () => {
      text.value = filled(masked, words, word?.word);
      closeWords();
      text.focus();
      ask();
    });
    return button;
  };
  const group = (title, buttons) => {
    const box = Object.assign(document.createElement("div"), { className: "gap" });
    if (title) box.append(Object.assign(document.createElement("h3"), { textContent: title }));
    const row = Object.assign(document.createElement("div"), { className: "row" });
    row.append(...buttons);
    box.append(row);
    return box;
  };
  const whole = result.map(({ words, score }) => words && option(words.map((each, index) => cased(each, filled(masked, words.slice(0, index)).split(MASK)[0], null)).join(" … "), score.toFixed(1), words));
  const groups = joint
    ? [group("", whole)]
    : result.map((entries, gap) =>
        group(
          count > 1 ? `Gap ${gap + 1}` : "",
          entries.map(({ word: each, score }) => {
            const before = masked.split(MASK).slice(0, gap + 1).join(MASK);
            const words = [];
            words[gap] = each;
            return option(cased(each, before, word?.word), percent(score), words);
          }),
        ),
      );
  $("gaps").replaceChildren(...groups);
}

/* Files */

async function open(file) {
  tell("");
  try {
    const table = await read(file.name, file);
    job = { id: (job?.id ?? 0) + 1, name: file.name, ...table, results: [] };
  } catch (error) {
    tell(error.message);
    return;
  }
  worker.postMessage({ type: "rows", cancel: true });
  $("column").replaceChildren(...job.columns.map((name, index) => new Option(name, String(index), false, index === job.likely)));
  show("column-label", job.columns.length > 1);
  $("job-text").textContent = `${job.name}: ${job.rows.length} rows.`;
  for (const [id, visible] of [["job", true], ["go", true], ["stop", false], ["download", false], ["job-bar", false]]) show(id, visible);
}

$("go").addEventListener("click", () => {
  let texts;
  tell("");
  try {
    texts = textsOf(job.name, job, Number($("column").value));
  } catch (error) {
    tell(error.message);
    return;
  }
  job.begin = performance.now();
  job.results = [];
  job.done = 0;
  job.id += 1;
  for (const [id, visible] of [["go", false], ["stop", true], ["job-bar", true], ["download", false]]) show(id, visible);
  worker.postMessage({ type: "rows", id: job.id, texts });
});

$("stop").addEventListener("click", () => {
  worker.postMessage({ type: "rows", cancel: true });
  endRows(`Stopped after ${job.done} of ${job.rows.length} rows.`);
});

function progressRows({ index, result }) {
  if (job.ended === job.id) return;
  job.results[index] = result;
  job.done += 1;
  const seconds = (performance.now() - job.begin) / 1000;
  const left = (seconds / job.done) * (job.rows.length - job.done);
  $("job-bar").value = job.done / job.rows.length;
  if (job.done === job.rows.length) {
    endRows(`${summary()} in ${seconds.toFixed(1)} s.`);
    return;
  }
  const rest = left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`;
  $("job-text").textContent = `${job.done} of ${job.rows.length} rows, about ${rest} left.`;
}

function summary() {
  const counts = labels.map((label) => `${job.results.filter((result) => result?.label === label).length} ${label}`);
  const blank = job.results.filter((result) => result === null).length;
  return `${job.name}: ${counts.join(", ")}${blank ? `, ${blank} blank` : ""}`;
}

function endRows(message) {
  job.ended = job.id;
  $("job-text").textContent = message;
  for (const [id, visible] of [["go", true], ["stop", false], ["job-bar", false], ["download", job.done > 0]]) show(id, visible);
  const rows = job.rows.slice(0, job.results.length);
  const blob = new Blob([render(job.columns, rows, job.results)], { type: "text/csv" });
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(blob);
  $("download").download = `${job.name.replace(/\.[^.]*$/, "")}-labelled.csv`;
}

$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) open(target.files[0]);
  target.value = "";
});
for (const type of ["dragover", "drop", "dragleave"]) {
  $("drop").addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    if (type === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}

/* Examples and input */

for (const [name, example] of EXAMPLES) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.addEventListener("click", () => {
    text.value = example;
    closeWords();
    ask();
  });
  $("examples").append(button);
}
text.addEventListener("input", () => {
  if (filling?.word) closeWords();
  ask();
});
$("joint").addEventListener("change", () => filling && askWords(filling.masked, filling.word));
for (const choice of document.querySelectorAll("input[name=by]")) choice.addEventListener("change", () => explained && showMarked());
begin();
