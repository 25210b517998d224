// The page: the form, images and their previews, a gallery stored in this browser, captions of images.

import { PromptHelp, replaceWord } from "./help.js";
import { addProvenance } from "./png.js";
import * as store from "./store.js";
import { EXAMPLES, TEXTS } from "./words.js";

const DELAY = 300; // milliseconds from the last keystroke until unknown words are looked up
const $ = (id) => document.getElementById(id);
const state = {
  language: "en", ready: false, lastNumber: 0, running: new Map(), captionTargets: new Map(), family: null,
  statusMessage: ["preparing", {}], help: null, used: new Set(),
};
const files = await (await fetch("files.json")).json();
const worker = new Worker("worker.js", { type: "module" });

// ------------------------------------------------------------------------------------------------ texts and controls

const t = (key, values = {}) => Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, () => value), TEXTS[state.language][key]);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A button whose text follows the language. */
function button(key, className, onClick, label = null) {
  const node = make("button", { type: "button", className, textContent: t(key), onclick: onClick });
  node.dataset.text = key;
  if (label) {
    node.dataset.label = label;
    node.setAttribute("aria-label", t(label));
  }
  return node;
}

function chip(text, onClick, label = null) {
  const node = make("button", { type: "button", className: "chip", textContent: text, onclick: onClick });
  if (label) node.setAttribute("aria-label", label);
  return node;
}

function setStatus(key, values = {}) {
  state.statusMessage = [key, values];
  $("status").textContent = t(key, values);
}

function showError(reason) {
  $("problem").textContent = reason ?? "";
  $("problem").hidden = !reason;
}

function setPrompt(text) {
  $("prompt").value = text;
  $("prompt").focus();
  showHelp();
}

function setLanguage(language) {
  state.language = language;
  localStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of document.querySelectorAll("[data-language]")) node.setAttribute("aria-pressed", node.dataset.language === language);
  $("examples").replaceChildren(...EXAMPLES[language].map((prompt) => chip(prompt, () => setPrompt(prompt))));
  showStyles();
  showAbout();
  showHelp();
  setStatus(...state.statusMessage);
}

function showStyles() {
  const selected = $("style").value, entries = Object.entries(state.family?.styles ?? {});
  $("style-field").hidden = entries.length === 0;
  $("style").replaceChildren(new Option(t("no_style"), ""), ...entries.map(([name, labels]) => new Option(labels[state.language] ?? name, name)));
  $("style").value = selected;
}

function showAbout() {
  if (!state.family) return;
  const { threads, gpu } = state, backend = gpu ? t("gpu") : threads > 1 ? t("threads", { threads }) : t("one_thread");
  $("about").textContent = t("about", { model: state.family.name, megabytes: Math.round(files.bytes / 1e6), backend });
}

/** Shows the prompt's unknown words, with similar known words as replacements. */
function showHelp() {
  const unknown = state.help?.unknown($("prompt").value) ?? [];
  const toLine = ({ word, near }) =>
    make("p", {}, t("never_learnt", { word }), " ", ...near.map((replacement) =>
      chip(replacement, () => setPrompt(replaceWord($("prompt").value, word, replacement)), t("replace", { word, other: replacement }))));
  $("help").replaceChildren(...unknown.map(toLine));
  $("help").hidden = unknown.length === 0;
}

// ------------------------------------------------------------------------------------------------ images

function addTile(prompt) {
  const frame = make("div", { className: "frame" }), image = make("img", { alt: prompt, hidden: true });
  frame.append(image);
  const item = make("li", {}, frame, make("p", { textContent: prompt, className: "said" }));
  $("row").prepend(item);
  $("empty").hidden = true;
  return { item, image };
}

async function png({ data, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
}

/** An image's pixels over a white background; throws if the browser cannot decode it. */
async function pixels(blob) {
  const bitmap = await createImageBitmap(blob), scale = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return { data: context.getImageData(0, 0, width, height).data, width, height };
}

function show({ image }, blob) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
}

/** Shows a finished image in its tile, with controls to download, caption and delete it. */
function finishTile(tile, { name, blob, codes }, key) {
  show(tile, blob);
  const link = make("a", { className: "button second", download: name, href: tile.image.src, textContent: t("download") });
  link.dataset.text = "download";
  const captions = make("div", { className: "captions" });
  captions.setAttribute("aria-live", "polite");
  const describeButton = button("describe", "plain", () => describe(captions, codes ? { codes } : { blob }));
  describeButton.classList.add("describes");
  describeButton.hidden = !state.canCaption;
  const removeButton = button("remove", "plain", async () => {
    await store.remove(await key);
    tile.item.remove();
    updateGallery();
  }, "remove_label");
  tile.item.append(link, make("div", { className: "more" }, describeButton, removeButton), captions);
  updateGallery();
}

function updateGallery() {
  const hasImages = document.querySelector("#row li") !== null;
  $("clear").hidden = document.querySelector("#row li:not(.unfinished)") === null;
  $("empty").hidden = hasImages;
}

function finishJob(number) {
  const job = state.running.get(number);
  state.running.delete(number);
  if (state.running.size === 0) {
    $("images").setAttribute("aria-busy", "false");
    $("stop").hidden = true;
  }
  return job;
}

// ------------------------------------------------------------------------------------------------ captions

async function describe(target, { codes = null, blob = null }) {
  const showMessage = (key) => target.replaceChildren(make("p", { className: "quiet", textContent: t(key) }));
  try {
    const image = codes ? null : await pixels(blob), number = (state.lastNumber += 1);
    showMessage("describing");
    state.captionTargets.set(number, target);
    worker.postMessage({ kind: "describe", number, codes, image, language: state.language });
  } catch {
    showMessage("not_an_image");
  }
}

async function describeFile(file) {
  if (!file) return;
  const image = $("shown");
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.hidden = false;
  image.onerror = () => (image.hidden = true);
  if (state.ready) await describe($("captions"), { blob: file });
}

// ------------------------------------------------------------------------------------------------ the worker

const handlers = {
  loaded: ({ bytes }) => {
    if (state.ready) return;
    const percent = Math.min(100, Math.round((100 * bytes) / files.model));
    $("progress").value = percent;
    percent < 100 ? setStatus("loading", { percent }) : setStatus("preparing");
  },
  used: ({ names }) => {
    for (const name of names) state.used.add(name);
    navigator.serviceWorker?.ready.then(({ active }) => active.postMessage({ keep: [...state.used] }));
  },
  open: ({ family, model_hash, threads, gpu, canCaption }) => {
    Object.assign(state, { family, model_hash, threads, gpu, canCaption, ready: true });
    showStyles();
    showAbout();
    $("generate").disabled = false;
    $("loading").hidden = true;
    $("describe").hidden = $("best-field").hidden = !canCaption;
    for (const node of document.querySelectorAll(".describes")) node.hidden = !canCaption;
    setStatus("ready");
  },
  failed: ({ reason }) => {
    $("loading").hidden = true;
    showError(t("failed", { reason }));
  },
  step: ({ number, candidate }) => {
    const job = state.running.get(number);
    if (!job) return;
    const values = { done: job.position, n: job.count, candidate: candidate + 1, of: job.bestOf };
    setStatus(job.bestOf > 1 ? "generating_candidates" : "generating", values);
  },
  partial: async ({ number, image }) => {
    const blob = new Blob([await png(image)], { type: "image/png" }), job = state.running.get(number);
    if (job) show(job.tile, blob);
  },
  done: async ({ number, image, codes, index, selection }) => {
    const job = state.running.get(number);
    const settings = {
      ...state.family.defaults, style: job.style, precision: files.weights, runtime: files.runtime, ...(selection ? { best_of: selection } : {}),
    };
    const metadata = {
      software: files.software, prompt: job.prompt, seed: job.seed, index,
      model: state.family.name, model_hash: state.model_hash, settings,
    };
    const blob = await addProvenance(await png(image), metadata, files.labels);
    const record = { prompt: job.prompt, name: `${state.family.name}-${job.seed}-${index}.png`, blob, codes };
    finishJob(number);
    job.tile.item.classList.remove("unfinished");
    if (state.running.size === 0) setStatus("finished", { n: job.count });
    finishTile(job.tile, record, store.add(record));
  },
  described: ({ number, captions }) => {
    const target = state.captionTargets.get(number), chips = captions.map((text) => chip(text, () => setPrompt(text), t("use", { text })));
    state.captionTargets.delete(number);
    target.replaceChildren(...(chips.length ? chips : [make("p", { className: "quiet", textContent: t("no_captions") })]));
  },
  problem: ({ number, reason }) => {
    const target = state.captionTargets.get(number), job = finishJob(number);
    state.captionTargets.delete(number);
    if (target) target.replaceChildren(make("p", { className: "quiet", textContent: reason }));
    job?.tile.item.remove();
    updateGallery();
    if (reason === "stopped") setStatus("stopped");
    else if (job) showError(t("error", { reason }));
  },
};
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => handlers.failed({ reason: event.message ?? "worker" });

// ------------------------------------------------------------------------------------------------ the form

$("form").onsubmit = (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim(), count = Number($("number").value), bestOf = Number($("best").value);
  if (!state.ready || !prompt) return;
  showError(null);
  const seed = $("seed").value ? Number($("seed").value) : crypto.getRandomValues(new Uint32Array(1))[0];
  const style = $("style").value || null;
  $("images").setAttribute("aria-busy", "true");
  $("stop").hidden = false;
  const tiles = Array.from({ length: count }, () => addTile(prompt)).reverse(); // addTile puts each before the previous one
  for (const [position, tile] of tiles.entries()) {
    const number = (state.lastNumber += 1);
    tile.item.classList.add("unfinished");
    state.running.set(number, { tile, prompt, seed, style, position: position + 1, count, bestOf });
    worker.postMessage({ kind: "generate", number, prompt, bestOf, options: { seed, index: position * bestOf, style } });
  }
  if (matchMedia("(max-width: 60rem)").matches) $("images").scrollIntoView({ block: "start" });
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
};
let timer = null;
$("prompt").oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(showHelp, DELAY);
};
$("stop").onclick = () => worker.postMessage({ kind: "stop", number: state.lastNumber });
$("clear").onclick = async () => {
  if (!confirm(t("clear_sure"))) return;
  await store.clear();
  for (const item of document.querySelectorAll("#row li:not(.unfinished)")) item.remove();
  updateGallery();
};
$("best").onchange = () => ($("best-hint").hidden = $("best").value === "1");
$("picture").onchange = () => describeFile($("picture").files[0]);
$("drop").ondragover = (event) => event.preventDefault();
$("drop").ondrop = (event) => {
  event.preventDefault();
  describeFile(event.dataTransfer.files[0]);
};
for (const node of document.querySelectorAll("[data-language]")) node.onclick = () => setLanguage(node.dataset.language);

setLanguage(localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
worker.postMessage({ kind: "open", weights: files.weights, runtime: new URLSearchParams(location.search).get("runtime") });
for (const [key, record] of await store.all()) finishTile(addTile(record.prompt), record, key);
updateGallery();
if (files.words) fetch("words.json").then((response) => response.json()).then((words) => ((state.help = new PromptHelp(words)), showHelp()));
if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => null);
