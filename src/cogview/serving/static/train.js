// Models trained on one's own pictures, where the server allows it: uploaded, planned, trained, watched.

import { Refused, file, form, get, post } from "./api.js";
import { button, calm, complain, every, find, make, problem, seconds, state, t, whenSpoken } from "./page.js";
import { loadModels } from "./models.js";
import { openTab, whenOpened } from "./tabs.js";

const SUFFIX = /\.(png|jpe?g|webp|txt)$/i;
const PICTURE = /\.(png|jpe?g|webp)$/i;
const BATCH = 100; // files of an upload
const EVERY = 2000; // milliseconds between looks at what runs
const SVG = "http://www.w3.org/2000/svg";

let chosen = []; // [{file, name}]
let offer = null; // what GET /v1/trainings says
let runs = new Map(); // name to its description
let timer = null;
const sheets = new Map(); // "name/sheet" to the address of a blob

// ------------------------------------------------------------------------------------------ what is chosen

function choose(found) {
  chosen = found.filter(({ name }) => SUFFIX.test(name) && !name.split("/").at(-1).startsWith("."));
  calm(find(".problem", find("#panel-train")));
  const folder = chosen[0]?.name.split("/").at(-2) ?? "";
  if (!find("#train-name").value) find("#train-name").value = folder.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  showChosen();
}

function showChosen() {
  const images = chosen.filter(({ name }) => PICTURE.test(name));
  const megabytes = chosen.reduce((sum, one) => sum + one.file.size, 0) / 2 ** 20;
  find("#train-chosen").textContent = chosen.length
    ? t("train_chosen", { images: images.length, captions: chosen.length - images.length, size: megabytes.toFixed(1) }) : "";
}

const fromInput = (input) => [...input.files].map((one) => ({ file: one, name: one.webkitRelativePath || one.name }));

// All files of what was dropped, folders too.
async function fromDrop(items) {
  const found = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      found.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name: entry.fullPath.slice(1) });
    } else {
      const reader = entry.createReader();
      for (let some = await more(reader); some.length; some = await more(reader)) for (const one of some) await walk(one);
    }
  };
  for (const entry of [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean)) await walk(entry);
  return found;
}
const more = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));

// ------------------------------------------------------------------------------------------ a new one

function showOffer() {
  if (!offer?.enabled) return;
  const before = find("#train-sizes input:checked")?.value ?? "small";
  find("#train-sizes").replaceChildren(find("#train-sizes legend"), ...Object.keys(offer.sizes).map((name) => make("label", {},
    make("input", { type: "radio", name: "train-size", value: name, checked: name === before }), make("span", { textContent: t(`size_${name}`) }))));
  for (const radio of every("#train-sizes input")) radio.addEventListener("change", showSizeHint);
  const start = find("#train-start").value;
  const able = state.models.filter(({ cogview }) => cogview.abilities.includes("generate") && !cogview.two_stage);
  find("#train-start").replaceChildren(make("option", { value: "", textContent: t("train_from_nothing") }),
    ...able.map(({ id }) => make("option", { value: id, textContent: id })));
  find("#train-start").value = start;
  showSizeHint();
}

const showSizeHint = () => { find("#train-size-hint").textContent = t(`size_${find("#train-sizes input:checked").value}_hint`); };

async function planNow() {
  const panel = find("#panel-train");
  const told = find(".problem", panel);
  calm(told);
  if (!chosen.some(({ name }) => PICTURE.test(name))) return complain(told, problem("no_images"));
  const name = find("#train-name").value.trim();
  const asked = { name, size: find("#train-sizes input:checked").value };
  const fields = { start: "#train-start", image_tokenizer_steps: "#train-tokenizer-steps", transformer_steps: "#train-steps" };
  for (const [field, selector] of Object.entries(fields)) {
    const { value } = find(selector);
    if (value) asked[field] = field === "start" ? value : Number(value);
  }
  const go = find(".go", panel);
  go.disabled = true;
  try {
    await post("/v1/trainings", asked);
    const refused = await upload(name);
    runs.set(name, { ...(await post(`/v1/trainings/${name}/plan`)), refused });
    chosen = [];
    find("#train-name").value = find("#train-folder").value = find("#train-files").value = "";
    showChosen();
    find("#trainings").focus({ preventScroll: true });
  } catch (error) {
    complain(told, error);
    if (!(error instanceof Refused && error.code === "name_taken")) await post(`/v1/trainings/${name}`, {}, { method: "DELETE" }).catch(() => {});
  } finally {
    go.disabled = false;
    find("#train-upload").hidden = true;
    await look();
  }
  return null;
}

// In batches that the server reads; what it refused.
async function upload(name) {
  const bar = find("#train-upload");
  Object.assign(bar, { hidden: false, value: 0 });
  const most = offer.max_upload * 0.8;
  const refused = [];
  let batch = [];
  let size = 0;
  let done = 0;
  const send = async () => {
    if (batch.length) refused.push(...(await form(`/v1/trainings/${name}/files`, {}, batch.map((one) => ["file", one.file, one.name]))).refused);
    done += batch.length;
    bar.value = done / chosen.length;
    [batch, size] = [[], 0];
  };
  for (const one of chosen) {
    if (one.file.size > most) {
      refused.push({ file: one.name, code: "too_large" });
      continue;
    }
    if (batch.length >= BATCH || size + one.file.size > most) await send();
    batch.push(one);
    size += one.file.size;
  }
  await send();
  return refused;
}

// ------------------------------------------------------------------------------------------ all of them

// One look at a time; whoever asks meanwhile gets one after it.
let looking = null;
let wanted = false;
async function look() {
  wanted = true;
  looking ??= (async () => {
    for (; wanted; ) {
      wanted = false;
      await lookOnce();
    }
    looking = null;
  })();
  return looking;
}

async function lookOnce() {
  clearTimeout(timer);
  try {
    offer = await get("/v1/trainings");
    const names = offer.data.map((one) => one.name);
    const before = runs;
    runs = new Map();
    for (const { name, status } of offer.data) {
      const known = before.get(name);
      const settled = known && known.status === status && status !== "running";
      runs.set(name, settled ? known : { refused: known?.refused, ...(await get(`/v1/trainings/${name}`)) });
      if (known?.status === "running" && status === "done") await loadModels();
    }
    for (const card of every(".training")) if (!names.includes(card.dataset.name)) card.remove();
    for (const name of names) await showRun(runs.get(name));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof Refused)) throw error; // away, or one is gone: looked for again
  }
  find("#no-trainings").hidden = runs.size > 0;
  if (state.tab === "train") timer = setTimeout(look, EVERY);
}

async function act(run, path, card, method = "POST") {
  const told = find(".problem", card);
  calm(told);
  try {
    const answer = await post(`/v1/trainings/${run.name}${path}`, {}, { method });
    if (method === "POST") runs.set(run.name, { refused: run.refused, ...answer });
    if (method === "DELETE") {
      for (const id of [...sheets.keys()]) if (id.startsWith(`${run.name}/`)) sheets.delete(id);
      await loadModels();
    }
  } catch (error) {
    complain(told, error);
  }
  await look();
}

async function showRun(run) {
  let card = every(".training").find((each) => each.dataset.name === run.name);
  if (!card) {
    card = make("article", { className: "card training", data: { name: run.name } }, make("div", { className: "head" }), make("ol", { className: "stages" }), make("dl"),
      make("p", { className: "log-line" }), make("div", { className: "curves" }), make("div", { className: "sheets" }), make("details", { className: "log" }, make("summary"), make("pre", { lang: "en", tabIndex: 0 })),
      make("div", { className: "problem", hidden: true, aria: { role: "alert" } }), make("div", { className: "actions wrap" }));
    find("#training-list").append(card);
  }
  const head = find(".head", card);
  head.replaceChildren(make("h3", { textContent: run.name }), make("p", { className: `status ${run.status}`, textContent: t(run.status === "running" && run.doing === "plan" ? "status_planning" : `status_${run.status}`), aria: { role: "status" } }));
  showStages(run, find(".stages", card));
  showPlan(run, find("dl", card));
  find(".log-line", card).textContent = run.status === "failed" ? run.log.at(-1) ?? "" : "";
  find(".log-line", card).lang = "en";
  find(".curves", card).replaceChildren(...Object.entries(run.progress).filter(([, one]) => one).map(([stage, one]) => curve(stage, one, run)));
  const log = find(".log", card);
  log.hidden = !run.log.length;
  find("summary", log).textContent = t("log");
  find("pre", log).textContent = run.log.join("\n");
  find("pre", log).setAttribute("aria-label", t("log"));
  showButtons(run, card);
  await showSheets(run, find(".sheets", card));
}

function showStages(run, list) {
  const begun = run.status !== "new" && run.status !== "planned";
  const now = run.status === "running" ? run.stages.find((stage) => !run.done.includes(stage)) : null;
  list.hidden = !begun;
  list.replaceChildren(...run.stages.map((stage) => {
    const kind = run.done.includes(stage) ? "done" : stage === now ? "now" : "";
    const node = make("li", { className: kind, textContent: t(`stage_${stage}`) });
    if (kind === "now") node.setAttribute("aria-current", "step");
    if (kind === "done") node.append(make("span", { className: "hidden", textContent: ` (${t("stage_done")})` }));
    return node;
  }));
}

function showPlan(run, list) {
  const { plan, files, refused = [] } = run;
  const facts = {};
  if (plan) {
    const captions = Object.entries(plan.captions).map(([language, n]) => `${n} ${t(`language_${language}`)}`).join(", ");
    Object.assign(facts, { plan_images: plan.pictures, plan_captions: captions });
    if (plan.unnamed) facts.plan_unnamed = plan.unnamed;
    const out = Object.entries(plan.left_out).map(([why, n]) => `${n} (${why})`).join(", ");
    if (out) facts.plan_left_out = out;
    facts.plan_parameters = t("millions", { n: (plan.parameters / 1e6).toFixed(1), w: Math.round(plan.parameters / 1e4) });
    if (run.status !== "done") Object.assign(facts, { plan_time: t("about", { time: seconds(plan.seconds) }), plan_memory: `${(plan.memory / 2 ** 30).toFixed(1)} GB` });
  } else if (files) facts.plan_images = files.pictures;
  facts.plan_size = t(`size_${run.size}`);
  if (run.start) facts.plan_start = run.start;
  if (refused.length) facts.plan_refused = refused.map((one) => one.file).slice(0, 3).join(", ") + (refused.length > 3 ? ` … (${refused.length})` : "");
  list.replaceChildren(...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", { textContent: t(name) }), make("dd", { textContent: value }))));
}

function curve(stage, { step, steps, loss, seconds_left: left, curve: points }, run) {
  const running = run.status === "running" && !run.done.includes(stage);
  const told = [t("steps", { step, steps }), t("loss", { loss: loss.toFixed(3) }), running && left ? t("left", { time: seconds(left) }) : ""].filter(Boolean).join(" · ");
  const picture = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" })) picture.setAttribute(name, value);
  const line = document.createElementNS(SVG, "polyline");
  const heights = points.map(([, value]) => value);
  const [least, most] = [Math.min(...heights), Math.max(...heights)];
  const at = ([x, y]) => `${((100 * x) / steps).toFixed(2)},${(29 - (28 * (y - least)) / (most - least || 1)).toFixed(2)}`;
  line.setAttribute("points", points.map(at).join(" "));
  picture.append(line);
  return make("div", { className: "curve" }, make("h4", { textContent: t(`stage_${stage}`) }), make("p", { className: "quiet", textContent: told }),
    make("progress", { max: steps, value: step, aria: { label: `${t(`stage_${stage}`)}: ${told}` } }), picture);
}

// The last sheet large, those before it small; fetched once, with the key.
async function showSheets(run, place) {
  const names = [...run.sheets.filter((name) => !name.startsWith("image_tokenizer")), ...run.sheets.filter((name) => name.startsWith("image_tokenizer"))];
  const shownNow = names[0]?.startsWith("image_tokenizer") ? names.slice(-1) : names.filter((name) => !name.startsWith("image_tokenizer")).slice(-8);
  const key = shownNow.join();
  if (place.dataset.shown === `${state.language} ${key}`) return;
  const images = [];
  for (const name of shownNow) {
    const id = `${run.name}/${name}`;
    const blob = sheets.get(id) ?? (await file(`/v1/trainings/${run.name}/sheets/${name}`).then(URL.createObjectURL, () => null));
    if (!blob) continue;
    sheets.set(id, blob);
    const step = /(\d+)\.png$/.exec(name);
    const title = name.startsWith("image_tokenizer") ? t("sheet_reconstructions") : step ? t("sheet_step", { step: Number(step[1]) }) : t("sheet_final");
    const alt = name.startsWith("image_tokenizer") ? title : `${title}: ${run.prompts.join("; ")}`;
    images.push(make("figure", {}, make("img", { src: blob, alt }), make("figcaption", { className: "quiet", textContent: title })));
  }
  place.dataset.shown = `${state.language} ${key}`;
  place.replaceChildren(...images.reverse());
}

function showButtons(run, card) {
  const place = find(".actions", card);
  const wanted = { planned: ["train_start_now"], running: ["train_stop"], stopped: ["train_resume"], failed: [run.doing === "plan" ? "train_plan_again" : "train_resume"], new: ["train_plan_again"], done: ["train_use"] }[run.status];
  const key = `${[...wanted, run.status].join()} ${state.language}`;
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  const clicks = {
    train_start_now: () => act(run, "/start", card), train_stop: () => act(run, "/stop", card), train_resume: () => act(run, "/start", card),
    train_plan_again: () => act(run, "/plan", card), train_use: () => use(run),
    delete: () => { if (confirm(t("train_delete_sure", { name: run.name }))) act(run, "", card, "DELETE"); },
  };
  const names = run.status === "running" ? wanted : [...wanted, "delete"];
  const held = place.contains(document.activeElement);
  place.replaceChildren(...names.map((name) => button(name, clicks[name], `button ${name === "delete" ? "second bad" : name === "train_stop" ? "second" : ""}`)));
  if (held) find("button", place).focus();
}

async function use(run) {
  await loadModels(run.name);
  openTab("draw");
  find("#prompt").value = run.prompts[0] ?? "";
  find("#prompt").focus();
}

// ------------------------------------------------------------------------------------------ wiring

// Whether this server trains; then the tab is shown.
export async function loadTrainings() {
  offer = await get("/v1/trainings");
  find("#tab-train").hidden = !offer.enabled;
  showOffer();
}

export function wireTraining() {
  const drop = find("#train-drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, async (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") choose(await fromDrop(event.dataTransfer.items));
    });
  }
  for (const id of ["#train-folder", "#train-files"]) find(id).addEventListener("change", (event) => choose(fromInput(event.target)));
  find("#panel-train").addEventListener("submit", (event) => { event.preventDefault(); planNow(); });
  whenOpened((name) => { if (name === "train") look(); else clearTimeout(timer); });
  whenSpoken(() => {
    showOffer();
    showChosen();
    for (const run of runs.values()) showRun(run);
  });
}
