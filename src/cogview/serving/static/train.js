// Training models on the user's images, if the server allows it: upload, plan, training, progress.

import { ApiError, getBlob, getJson, post, postForm } from "./api.js";
import { button, clearError, find, findAll, make, onLanguageChange, pageError, seconds, showError, state, t } from "./page.js";
import { loadModels } from "./models.js";
import { onTabOpened, openTab } from "./tabs.js";

const ACCEPTED = /\.(png|jpe?g|webp|txt)$/i;
const IMAGE = /\.(png|jpe?g|webp)$/i;
const BATCH_SIZE = 100; // files per upload request
const POLL_INTERVAL = 2000; // milliseconds between requests for the progress
const SVG = "http://www.w3.org/2000/svg";

let selectedFiles = []; // [{file, name}]
let overview = null; // the response of GET /v1/trainings
let runs = new Map(); // a training's name to its description
let timer = null;
const gridUrls = new Map(); // "training/file name" to the object URL of an image grid

// ------------------------------------------------------------------------------------------ selected files

function selectFiles(files) {
  selectedFiles = files.filter(({ name }) => ACCEPTED.test(name) && !name.split("/").at(-1).startsWith("."));
  clearError(find(".problem", find("#panel-train")));
  const folder = selectedFiles[0]?.name.split("/").at(-2) ?? "";
  if (!find("#train-name").value) find("#train-name").value = folder.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 40);
  showSelection();
}

function showSelection() {
  const images = selectedFiles.filter(({ name }) => IMAGE.test(name));
  const megabytes = selectedFiles.reduce((sum, item) => sum + item.file.size, 0) / 2 ** 20;
  find("#train-chosen").textContent = selectedFiles.length
    ? t("train_chosen", { images: images.length, captions: selectedFiles.length - images.length, size: megabytes.toFixed(1) }) : "";
}

const filesOfInput = (input) => [...input.files].map((item) => ({ file: item, name: item.webkitRelativePath || item.name }));

// All dropped files, including those in dropped folders.
async function filesOfDrop(items) {
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) {
      files.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name: entry.fullPath.slice(1) });
    } else {
      const reader = entry.createReader();
      for (let entries = await readEntries(reader); entries.length; entries = await readEntries(reader)) for (const item of entries) await walk(item);
    }
  };
  for (const entry of [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean)) await walk(entry);
  return files;
}
const readEntries = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));

// ------------------------------------------------------------------------------------------ a new training

function showForm() {
  if (!overview?.enabled) return;
  const previous = find("#train-sizes input:checked")?.value ?? "small";
  find("#train-sizes").replaceChildren(find("#train-sizes legend"), ...Object.keys(overview.sizes).map((name) => make("label", {},
    make("input", { type: "radio", name: "train-size", value: name, checked: name === previous }), make("span", { textContent: t(`size_${name}`) }))));
  for (const radio of findAll("#train-sizes input")) radio.addEventListener("change", showSizeHint);
  const start = find("#train-start").value;
  const startModels = state.models.filter(({ cogview }) => cogview.abilities.includes("generate") && !cogview.two_stage);
  find("#train-start").replaceChildren(make("option", { value: "", textContent: t("train_from_nothing") }),
    ...startModels.map(({ id }) => make("option", { value: id, textContent: id })));
  find("#train-start").value = start;
  showSizeHint();
}

const showSizeHint = () => { find("#train-size-hint").textContent = t(`size_${find("#train-sizes input:checked").value}_hint`); };

async function uploadAndPlan() {
  const panel = find("#panel-train");
  const errorBox = find(".problem", panel);
  clearError(errorBox);
  if (!selectedFiles.some(({ name }) => IMAGE.test(name))) return showError(errorBox, pageError("no_images"));
  const name = find("#train-name").value.trim();
  const request = { name, size: find("#train-sizes input:checked").value };
  const fields = { start: "#train-start", image_tokenizer_steps: "#train-tokenizer-steps", transformer_steps: "#train-steps" };
  for (const [field, selector] of Object.entries(fields)) {
    const { value } = find(selector);
    if (value) request[field] = field === "start" ? value : Number(value);
  }
  const submitButton = find(".go", panel);
  submitButton.disabled = true;
  try {
    await post("/v1/trainings", request);
    const rejected = await upload(name);
    runs.set(name, { ...(await post(`/v1/trainings/${name}/plan`)), refused: rejected });
    selectedFiles = [];
    find("#train-name").value = find("#train-folder").value = find("#train-files").value = "";
    showSelection();
    find("#trainings").focus({ preventScroll: true });
  } catch (error) {
    showError(errorBox, error);
    if (!(error instanceof ApiError && error.code === "name_taken")) await post(`/v1/trainings/${name}`, {}, { method: "DELETE" }).catch(() => {});
  } finally {
    submitButton.disabled = false;
    find("#train-upload").hidden = true;
    await refresh();
  }
  return null;
}

// Uploads the selected files in batches that the server accepts; returns the rejected files.
async function upload(name) {
  const bar = find("#train-upload");
  Object.assign(bar, { hidden: false, value: 0 });
  const limit = overview.max_upload * 0.8;
  const rejected = [];
  let batch = [];
  let size = 0;
  let done = 0;
  const send = async () => {
    if (batch.length) rejected.push(...(await postForm(`/v1/trainings/${name}/files`, {}, batch.map((item) => ["file", item.file, item.name]))).refused);
    done += batch.length;
    bar.value = done / selectedFiles.length;
    [batch, size] = [[], 0];
  };
  for (const item of selectedFiles) {
    if (item.file.size > limit) {
      rejected.push({ file: item.name, code: "too_large" });
      continue;
    }
    if (batch.length >= BATCH_SIZE || size + item.file.size > limit) await send();
    batch.push(item);
    size += item.file.size;
  }
  await send();
  return rejected;
}

// ------------------------------------------------------------------------------------------ all trainings

// Runs one refresh at a time; a call during a refresh starts another one after it.
let refreshing = null;
let refreshRequested = false;
async function refresh() {
  refreshRequested = true;
  refreshing ??= (async () => {
    for (; refreshRequested; ) {
      refreshRequested = false;
      await refreshOnce();
    }
    refreshing = null;
  })();
  return refreshing;
}

async function refreshOnce() {
  clearTimeout(timer);
  try {
    overview = await getJson("/v1/trainings");
    const names = overview.data.map((item) => item.name);
    const before = runs;
    runs = new Map();
    for (const { name, status } of overview.data) {
      const previous = before.get(name);
      const unchanged = previous && previous.status === status && status !== "running";
      runs.set(name, unchanged ? previous : { refused: previous?.refused, ...(await getJson(`/v1/trainings/${name}`)) });
      if (previous?.status === "running" && status === "done") await loadModels();
    }
    for (const card of findAll(".training")) if (!names.includes(card.dataset.name)) card.remove();
    for (const name of names) await showRun(runs.get(name));
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof ApiError)) throw error; // server unreachable or a training deleted: the next refresh tries again
  }
  find("#no-trainings").hidden = runs.size > 0;
  if (state.tab === "train") timer = setTimeout(refresh, POLL_INTERVAL);
}

async function runAction(run, path, card, method = "POST") {
  const errorBox = find(".problem", card);
  clearError(errorBox);
  try {
    const response = await post(`/v1/trainings/${run.name}${path}`, {}, { method });
    if (method === "POST") runs.set(run.name, { refused: run.refused, ...response });
    if (method === "DELETE") {
      for (const id of [...gridUrls.keys()]) if (id.startsWith(`${run.name}/`)) gridUrls.delete(id);
      await loadModels();
    }
  } catch (error) {
    showError(errorBox, error);
  }
  await refresh();
}

async function showRun(run) {
  let card = findAll(".training").find((item) => item.dataset.name === run.name);
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
  find(".curves", card).replaceChildren(...Object.entries(run.progress).filter(([, progress]) => progress).map(([stage, progress]) => curve(stage, progress, run)));
  const log = find(".log", card);
  log.hidden = !run.log.length;
  find("summary", log).textContent = t("log");
  find("pre", log).textContent = run.log.join("\n");
  find("pre", log).setAttribute("aria-label", t("log"));
  showButtons(run, card);
  await showGrids(run, find(".sheets", card));
}

function showStages(run, list) {
  const started = run.status !== "new" && run.status !== "planned";
  const current = run.status === "running" ? run.stages.find((stage) => !run.done.includes(stage)) : null;
  list.hidden = !started;
  list.replaceChildren(...run.stages.map((stage) => {
    const kind = run.done.includes(stage) ? "done" : stage === current ? "now" : "";
    const node = make("li", { className: kind, textContent: t(`stage_${stage}`) });
    if (kind === "now") node.setAttribute("aria-current", "step");
    if (kind === "done") node.append(make("span", { className: "hidden", textContent: ` (${t("stage_done")})` }));
    return node;
  }));
}

function showPlan(run, list) {
  const { plan, files, refused: rejected = [] } = run;
  const facts = {};
  if (plan) {
    const captions = Object.entries(plan.captions).map(([language, n]) => `${n} ${t(`language_${language}`)}`).join(", ");
    Object.assign(facts, { plan_images: plan.pictures, plan_captions: captions });
    if (plan.unnamed) facts.plan_unnamed = plan.unnamed;
    const leftOut = Object.entries(plan.left_out).map(([reason, n]) => `${n} (${reason})`).join(", ");
    if (leftOut) facts.plan_left_out = leftOut;
    facts.plan_parameters = t("millions", { n: (plan.parameters / 1e6).toFixed(1), w: Math.round(plan.parameters / 1e4) });
    if (run.status !== "done") Object.assign(facts, { plan_time: t("about", { time: seconds(plan.seconds) }), plan_memory: `${(plan.memory / 2 ** 30).toFixed(1)} GB` });
  } else if (files) facts.plan_images = files.pictures;
  facts.plan_size = t(`size_${run.size}`);
  if (run.start) facts.plan_start = run.start;
  if (rejected.length) facts.plan_refused = rejected.map((item) => item.file).slice(0, 3).join(", ") + (rejected.length > 3 ? ` … (${rejected.length})` : "");
  list.replaceChildren(...Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", { textContent: t(name) }), make("dd", { textContent: value }))));
}

function curve(stage, { step, steps, loss, seconds_left: left, curve: points }, run) {
  const running = run.status === "running" && !run.done.includes(stage);
  const description = [t("steps", { step, steps }), t("loss", { loss: loss.toFixed(3) }), running && left ? t("left", { time: seconds(left) }) : ""].filter(Boolean).join(" · ");
  const chart = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" })) chart.setAttribute(name, value);
  const line = document.createElementNS(SVG, "polyline");
  const heights = points.map(([, value]) => value);
  const [min, max] = [Math.min(...heights), Math.max(...heights)];
  const at = ([x, y]) => `${((100 * x) / steps).toFixed(2)},${(29 - (28 * (y - min)) / (max - min || 1)).toFixed(2)}`;
  line.setAttribute("points", points.map(at).join(" "));
  chart.append(line);
  return make("div", { className: "curve" }, make("h4", { textContent: t(`stage_${stage}`) }), make("p", { className: "quiet", textContent: description }),
    make("progress", { max: steps, value: step, aria: { label: `${t(`stage_${stage}`)}: ${description}` } }), chart);
}

// Image grids of samples, the latest first, or of the latest reconstructions; each is fetched once, with the API key.
async function showGrids(run, container) {
  const names = [...run.sheets.filter((name) => !name.startsWith("image_tokenizer")), ...run.sheets.filter((name) => name.startsWith("image_tokenizer"))];
  const visible = names[0]?.startsWith("image_tokenizer") ? names.slice(-1) : names.filter((name) => !name.startsWith("image_tokenizer")).slice(-8);
  const key = visible.join();
  if (container.dataset.shown === `${state.language} ${key}`) return;
  const images = [];
  for (const name of visible) {
    const id = `${run.name}/${name}`;
    const blob = gridUrls.get(id) ?? (await getBlob(`/v1/trainings/${run.name}/sheets/${name}`).then(URL.createObjectURL, () => null));
    if (!blob) continue;
    gridUrls.set(id, blob);
    const step = /(\d+)\.png$/.exec(name);
    const title = name.startsWith("image_tokenizer") ? t("grid_reconstructions") : step ? t("grid_step", { step: Number(step[1]) }) : t("grid_final");
    const alt = name.startsWith("image_tokenizer") ? title : `${title}: ${run.prompts.join("; ")}`;
    images.push(make("figure", {}, make("img", { src: blob, alt }), make("figcaption", { className: "quiet", textContent: title })));
  }
  container.dataset.shown = `${state.language} ${key}`;
  container.replaceChildren(...images.reverse());
}

function showButtons(run, card) {
  const container = find(".actions", card);
  const actions = { planned: ["train_start_now"], running: ["train_stop"], stopped: ["train_resume"], failed: [run.doing === "plan" ? "train_plan_again" : "train_resume"], new: ["train_plan_again"], done: ["train_use"] }[run.status];
  const key = `${[...actions, run.status].join()} ${state.language}`;
  if (container.dataset.key === key) return;
  container.dataset.key = key;
  const handlers = {
    train_start_now: () => runAction(run, "/start", card), train_stop: () => runAction(run, "/stop", card), train_resume: () => runAction(run, "/start", card),
    train_plan_again: () => runAction(run, "/plan", card), train_use: () => useModel(run),
    delete: () => { if (confirm(t("train_delete_sure", { name: run.name }))) runAction(run, "", card, "DELETE"); },
  };
  const names = run.status === "running" ? actions : [...actions, "delete"];
  const hadFocus = container.contains(document.activeElement);
  container.replaceChildren(...names.map((name) => button(name, handlers[name], `button ${name === "delete" ? "second bad" : name === "train_stop" ? "second" : ""}`)));
  if (hadFocus) find("button", container).focus();
}

async function useModel(run) {
  await loadModels(run.name);
  openTab("draw");
  find("#prompt").value = run.prompts[0] ?? "";
  find("#prompt").focus();
}

// ------------------------------------------------------------------------------------------ wiring

// Shows the tab if the server allows training.
export async function loadTrainings() {
  overview = await getJson("/v1/trainings");
  find("#tab-train").hidden = !overview.enabled;
  showForm();
}

export function wireTraining() {
  const drop = find("#train-drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, async (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") selectFiles(await filesOfDrop(event.dataTransfer.items));
    });
  }
  for (const id of ["#train-folder", "#train-files"]) find(id).addEventListener("change", (event) => selectFiles(filesOfInput(event.target)));
  find("#panel-train").addEventListener("submit", (event) => { event.preventDefault(); uploadAndPlan(); });
  onTabOpened((name) => { if (name === "train") refresh(); else clearTimeout(timer); });
  onLanguageChange(() => {
    showForm();
    showSelection();
    for (const run of runs.values()) showRun(run);
  });
}
