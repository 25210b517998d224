// The page: a form, images as they come, a gallery that stays in this browser, descriptions of pictures.

import { PromptHelp, replaced } from "./help.js";
import { labelled } from "./png.js";
import * as store from "./store.js";
import { EXAMPLES, WORDS } from "./words.js";

const WAIT = 300; // milliseconds after the last letter until words are looked up
const $ = (id) => document.getElementById(id);
const state = { language: "en", ready: false, last: 0, running: new Map(), asked: new Map(), family: null, said: ["preparing", {}], help: null, shown: [], used: new Set() };
const files = await (await fetch("files.json")).json();
const worker = new Worker("worker.js", { type: "module" });

// ------------------------------------------------------------------------------------------------ words

const say = (key, values = {}) => Object.entries(values).reduce((t, [k, v]) => t.replace(`{${k}}`, () => v), WORDS[state.language][key]);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A button whose words follow the language. */
function button(key, className, onclick, label = null) {
  const node = make("button", { type: "button", className, textContent: say(key), onclick });
  node.dataset.text = key;
  if (label) {
    node.dataset.label = label;
    node.setAttribute("aria-label", say(label));
  }
  return node;
}

function chip(text, onclick, label = null) {
  const node = make("button", { type: "button", className: "chip", textContent: text, onclick });
  if (label) node.setAttribute("aria-label", label);
  return node;
}

function status(key, values = {}) {
  state.said = [key, values];
  $("status").textContent = say(key, values);
}

function problem(reason) {
  $("problem").textContent = reason ?? "";
  $("problem").hidden = !reason;
}

function prompted(text) {
  $("prompt").value = text;
  $("prompt").focus();
  help();
}

function speak(language) {
  state.language = language;
  localStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = say(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", say(one.dataset.label));
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = say(one.dataset.placeholder);
  for (const one of document.querySelectorAll("[data-language]")) one.setAttribute("aria-pressed", one.dataset.language === language);
  $("examples").replaceChildren(...EXAMPLES[language].map((prompt) => chip(prompt, () => prompted(prompt))));
  styles();
  about();
  help();
  status(...state.said);
}

function styles() {
  const chosen = $("style").value, all = Object.entries(state.family?.styles ?? {});
  $("style-field").hidden = all.length === 0;
  $("style").replaceChildren(new Option(say("no_style"), ""), ...all.map(([name, words]) => new Option(words[state.language] ?? name, name)));
  $("style").value = chosen;
}

function about() {
  if (!state.family) return;
  const { threads, gpu } = state, way = gpu ? say("gpu") : threads > 1 ? say("threads", { threads }) : say("one_thread");
  $("about").textContent = say("about", { model: state.family.name, megabytes: Math.round(files.bytes / 1e6), way });
}

/** Words of the prompt that the model never learnt, and what near them it does know. */
function help() {
  const unknown = state.help?.unknown($("prompt").value) ?? [];
  const line = ({ word, near }) =>
    make("p", {}, say("never_learnt", { word }), " ", ...near.map((other) =>
      chip(other, () => prompted(replaced($("prompt").value, word, other)), say("replace", { word, other }))));
  $("help").replaceChildren(...unknown.map(line));
  $("help").hidden = unknown.length === 0;
}

// ------------------------------------------------------------------------------------------------ images

function tile(prompt) {
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

/** Pixels of a picture, over white; an error where the browser cannot read it. */
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

/** A finished image: shown, to be downloaded, described, deleted. */
function finish(made, { name, blob, codes }, key) {
  show(made, blob);
  const link = make("a", { className: "button second", download: name, href: made.image.src, textContent: say("download") });
  link.dataset.text = "download";
  const said = make("div", { className: "captions" });
  said.setAttribute("aria-live", "polite");
  const more = button("describe", "plain", () => describe(said, codes ? { codes } : { blob }));
  more.classList.add("describes");
  more.hidden = !state.describes;
  const remove = button("remove", "plain", async () => {
    await store.remove(await key);
    made.item.remove();
    counted();
  }, "remove_label");
  made.item.append(link, make("div", { className: "more" }, more, remove), said);
  counted();
}

function counted() {
  const any = document.querySelector("#row li") !== null;
  $("clear").hidden = document.querySelector("#row li:not(.unfinished)") === null;
  $("empty").hidden = any;
}

function ended(number) {
  const job = state.running.get(number);
  state.running.delete(number);
  if (state.running.size === 0) {
    $("images").setAttribute("aria-busy", "false");
    $("stop").hidden = true;
  }
  return job;
}

// ------------------------------------------------------------------------------------------------ descriptions

async function describe(place, { codes = null, blob = null }) {
  const wait = (key) => place.replaceChildren(make("p", { className: "quiet", textContent: say(key) }));
  try {
    const image = codes ? null : await pixels(blob), number = (state.last += 1);
    wait("describing");
    state.asked.set(number, place);
    worker.postMessage({ kind: "describe", number, codes, image, language: state.language });
  } catch {
    wait("not_a_picture");
  }
}

async function look(file) {
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
    percent < 100 ? status("loading", { percent }) : status("preparing");
  },
  used: ({ names }) => {
    for (const name of names) state.used.add(name);
    navigator.serviceWorker?.ready.then(({ active }) => active.postMessage({ keep: [...state.used] }));
  },
  open: ({ family, model_hash, threads, gpu, describes }) => {
    Object.assign(state, { family, model_hash, threads, gpu, describes, ready: true });
    styles();
    about();
    $("generate").disabled = false;
    $("loading").hidden = true;
    $("describe").hidden = $("best-field").hidden = !describes;
    for (const one of document.querySelectorAll(".describes")) one.hidden = !describes;
    status("ready");
  },
  failed: ({ reason }) => {
    $("loading").hidden = true;
    problem(say("failed", { reason }));
  },
  step: ({ number, candidate }) => {
    const job = state.running.get(number);
    if (!job) return;
    const values = { done: job.place, n: job.count, candidate: candidate + 1, of: job.bestOf };
    status(job.bestOf > 1 ? "choosing" : "working", values);
  },
  partial: async ({ number, image }) => {
    const blob = new Blob([await png(image)], { type: "image/png" }), job = state.running.get(number);
    if (job) show(job.tile, blob);
  },
  done: async ({ number, image, codes, index, chosen }) => {
    const job = state.running.get(number);
    const settings = {
      ...state.family.defaults, style: job.style, precision: files.weights, runtime: files.runtime, ...(chosen ? { best_of: chosen } : {}),
    };
    const facts = {
      software: files.software, prompt: job.prompt, seed: job.seed, index,
      model: state.family.name, model_hash: state.model_hash, settings,
    };
    const blob = await labelled(await png(image), facts, files.labels);
    const made = { prompt: job.prompt, name: `${state.family.name}-${job.seed}-${index}.png`, blob, codes };
    ended(number);
    job.tile.item.classList.remove("unfinished");
    if (state.running.size === 0) status("made", { n: job.count });
    finish(job.tile, made, store.add(made));
  },
  described: ({ number, captions }) => {
    const place = state.asked.get(number), words = captions.map((text) => chip(text, () => prompted(text), say("use", { text })));
    state.asked.delete(number);
    place.replaceChildren(...(words.length ? words : [make("p", { className: "quiet", textContent: say("nothing") })]));
  },
  problem: ({ number, reason }) => {
    const place = state.asked.get(number), job = ended(number);
    state.asked.delete(number);
    if (place) place.replaceChildren(make("p", { className: "quiet", textContent: reason }));
    job?.tile.item.remove();
    counted();
    if (reason === "stopped") status("stopped");
    else if (job) problem(say("wrong", { reason }));
  },
};
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => handlers.failed({ reason: event.message ?? "worker" });

// ------------------------------------------------------------------------------------------------ the form

$("form").onsubmit = (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim(), count = Number($("number").value), bestOf = Number($("best").value);
  if (!state.ready || !prompt) return;
  problem(null);
  const seed = $("seed").value ? Number($("seed").value) : crypto.getRandomValues(new Uint32Array(1))[0];
  const style = $("style").value || null;
  $("images").setAttribute("aria-busy", "true");
  $("stop").hidden = false;
  const tiles = Array.from({ length: count }, () => tile(prompt)).reverse(); // each is put before the last
  for (const [place, made] of tiles.entries()) {
    const number = (state.last += 1);
    made.item.classList.add("unfinished");
    state.running.set(number, { tile: made, prompt, seed, style, place: place + 1, count, bestOf });
    worker.postMessage({ kind: "generate", number, prompt, bestOf, options: { seed, index: place * bestOf, style } });
  }
  if (matchMedia("(max-width: 60rem)").matches) $("images").scrollIntoView({ block: "start" });
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
};
let timer = null;
$("prompt").oninput = () => {
  clearTimeout(timer);
  timer = setTimeout(help, WAIT);
};
$("stop").onclick = () => worker.postMessage({ kind: "stop", number: state.last });
$("clear").onclick = async () => {
  if (!confirm(say("clear_sure"))) return;
  await store.clear();
  for (const item of document.querySelectorAll("#row li:not(.unfinished)")) item.remove();
  counted();
};
$("best").onchange = () => ($("best-hint").hidden = $("best").value === "1");
$("picture").onchange = () => look($("picture").files[0]);
$("drop").ondragover = (event) => event.preventDefault();
$("drop").ondrop = (event) => {
  event.preventDefault();
  look(event.dataTransfer.files[0]);
};
for (const one of document.querySelectorAll("[data-language]")) one.onclick = () => speak(one.dataset.language);

speak(localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
worker.postMessage({ kind: "open", weights: files.weights, runtime: new URLSearchParams(location.search).get("runtime") });
for (const [key, made] of await store.all()) finish(tile(made.prompt), made, key);
counted();
if (files.words) fetch("words.json").then((answer) => answer.json()).then((words) => ((state.help = new PromptHelp(words)), help()));
if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => null);
