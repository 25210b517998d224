// The page: a form, images as they come, a gallery that stays in this browser.

import { labelled } from "./png.js";
import { EXAMPLES, WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const state = { language: "en", ready: false, last: 0, running: new Map(), family: null, said: ["preparing", {}] };
const files = await (await fetch("files.json")).json();
const worker = new Worker("worker.js", { type: "module" });

// ------------------------------------------------------------------------------------------------ words

const say = (key, values = {}) => Object.entries(values).reduce((t, [k, v]) => t.replace(`{${k}}`, v), WORDS[state.language][key]);

function status(key, values = {}) {
  state.said = [key, values];
  $("status").textContent = say(key, values);
}

function problem(reason) {
  $("problem").textContent = reason ?? "";
  $("problem").hidden = !reason;
}

function speak(language) {
  state.language = language;
  localStorage.setItem("language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const one of document.querySelectorAll("[data-text]")) one.textContent = say(one.dataset.text);
  for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", say(one.dataset.label));
  for (const one of document.querySelectorAll("[data-placeholder]")) one.placeholder = say(one.dataset.placeholder);
  for (const one of document.querySelectorAll("[data-language]")) one.setAttribute("aria-pressed", one.dataset.language === language);
  $("examples").replaceChildren(
    ...EXAMPLES[language].map((prompt) => {
      const chip = Object.assign(document.createElement("button"), { type: "button", className: "chip", textContent: prompt });
      chip.onclick = () => (($("prompt").value = prompt), $("prompt").focus());
      return chip;
    }),
  );
  styles();
  about();
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
  const megabytes = Math.round(files.bytes / 1e6);
  $("about").textContent = say("about", { model: state.family.name, megabytes, threads: state.threads });
}

// ------------------------------------------------------------------------------------------------ images

function tile(prompt) {
  const item = document.createElement("li"), frame = Object.assign(document.createElement("div"), { className: "frame" });
  const image = Object.assign(document.createElement("img"), { alt: prompt, hidden: true });
  frame.append(image);
  item.append(frame, Object.assign(document.createElement("p"), { textContent: prompt }));
  $("row").prepend(item);
  return { item, image };
}

async function png({ data, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
}

function show({ image, item }, blob, name = null) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
  if (name) {
    const link = Object.assign(document.createElement("a"), { className: "button second", download: name, href: image.src });
    link.dataset.text = "download";
    link.textContent = say("download");
    item.append(link);
  }
}

const database = new Promise((resolve) => {
  const asked = indexedDB.open("cogview-page", 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore("images", { autoIncrement: true });
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => resolve(null); // private windows may have none: the page works without
});

async function store(action, ...values) {
  const opened = await database;
  if (!opened) return [];
  return new Promise((resolve) => {
    const asked = opened.transaction("images", action === "getAll" ? "readonly" : "readwrite").objectStore("images")[action](...values);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => resolve([]);
  });
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

const handlers = {
  loaded: ({ bytes }) => {
    const percent = Math.min(100, Math.round((100 * bytes) / files.model));
    percent < 100 ? status("loading", { percent }) : status("preparing");
  },
  open: ({ family, model_hash, weights, threads }) => {
    Object.assign(state, { family, model_hash, weights, threads, ready: true });
    styles();
    about();
    $("generate").disabled = false;
    status("ready");
  },
  failed: ({ reason }) => problem(say("failed", { reason })),
  step: ({ number }) => {
    const job = state.running.get(number);
    if (job) status("working", { done: job.place, n: job.count });
  },
  partial: async ({ number, image }) => {
    const blob = new Blob([await png(image)], { type: "image/png" }), job = state.running.get(number);
    if (job) show(job.tile, blob);
  },
  done: async ({ number, image }) => {
    const job = state.running.get(number);
    const settings = { ...state.family.defaults, style: job.style, precision: state.weights, runtime: files.runtime };
    const facts = {
      software: files.software, prompt: job.prompt, seed: job.seed, index: job.index,
      model: state.family.name, model_hash: state.model_hash, settings,
    };
    const blob = await labelled(await png(image), facts, files.labels);
    const name = `${state.family.name}-${job.seed}-${job.index}.png`;
    ended(number);
    job.tile.item.classList.remove("unfinished");
    show(job.tile, blob, name);
    $("clear").hidden = false;
    if (state.running.size === 0) status("made", { n: job.count });
    await store("add", { prompt: job.prompt, name, blob });
  },
  problem: ({ number, reason }) => {
    const job = ended(number);
    job?.tile.item.remove();
    if (reason === "stopped") status("stopped");
    else problem(say("wrong", { reason }));
  },
};
worker.onmessage = ({ data }) => handlers[data.kind](data);
worker.onerror = (event) => problem(say("failed", { reason: event.message ?? "worker" }));

// ------------------------------------------------------------------------------------------------ the form

$("form").onsubmit = (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim(), count = Number($("number").value);
  if (!state.ready || !prompt) return;
  problem(null);
  const seed = $("seed").value ? Number($("seed").value) : crypto.getRandomValues(new Uint32Array(1))[0];
  const style = $("style").value || null;
  $("images").setAttribute("aria-busy", "true");
  $("stop").hidden = false;
  const tiles = Array.from({ length: count }, () => tile(prompt)).reverse(); // each is put before the last
  for (const [index, made] of tiles.entries()) {
    const number = (state.last += 1);
    made.item.classList.add("unfinished");
    state.running.set(number, { tile: made, prompt, seed, index, style, place: index + 1, count });
    worker.postMessage({ kind: "generate", number, prompt, options: { seed, index, style } });
  }
};
$("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
};
$("stop").onclick = () => worker.postMessage({ kind: "stop", number: state.last });
$("clear").onclick = async () => {
  if (!confirm(say("clear_sure"))) return;
  await store("clear");
  for (const item of document.querySelectorAll("#row li:not(.unfinished)")) item.remove();
  $("clear").hidden = true;
};
for (const one of document.querySelectorAll("[data-language]")) one.onclick = () => speak(one.dataset.language);

speak(localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
worker.postMessage({ kind: "open" });
for (const { prompt, name, blob } of await store("getAll")) {
  show(tile(prompt), blob, name);
  $("clear").hidden = false;
}
if ("serviceWorker" in navigator) await navigator.serviceWorker.register("sw.js").catch(() => null);
