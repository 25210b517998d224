// The studio. All text from people and servers goes into the page as text, never as markup.

import { Refused, blobOf, draw, form, models, remember } from "./api.js";
import { Painter } from "./mask.js";
import * as store from "./store.js";
import { EXAMPLES, TEXTS, filled } from "./texts.js";

const find = (selector, inside = document) => inside.querySelector(selector);
const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const state = { language: "en", models: [], shown: [], at: -1, busy: null, edited: null, tool: null };
const t = (name, values = {}) => filled(TEXTS[state.language][name] ?? name, values);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// ------------------------------------------------------------------------------------------ language

function speak(language) {
  state.language = language;
  localStorage.setItem("cogview-language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of every("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of every("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of every("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of every("[data-language]")) node.setAttribute("aria-pressed", node.dataset.language === language);
  if (state.models.length) showModel();
  for (const group of every(".group")) nameGroup(group);
}

// ------------------------------------------------------------------------------------------ models

const able = (ability) => state.models.find((model) => model.cogview.abilities.includes(ability));
const model = () => state.models.find((each) => each.id === find("#model").value) ?? state.models[0];

async function loadModels() {
  state.models = await models();
  const drawing = state.models.filter((each) => each.cogview.abilities.includes("generate"));
  find("#model").replaceChildren(...drawing.map((each) => make("option", { value: each.id, textContent: each.id })));
  find("#model-field").hidden = drawing.length < 2;
  showModel();
  takeDefaults();
}

function showModel() {
  const { id, cogview } = model();
  const examples = (EXAMPLES[id] ?? EXAMPLES[""])[state.language];
  find("#examples").replaceChildren(...examples.map(([name, prompt]) => {
    const chip = make("button", { type: "button", className: "chip", textContent: name, title: prompt });
    chip.addEventListener("click", () => { find("#prompt").value = prompt; find("#prompt").focus(); });
    return chip;
  }));
  const chosen = styleChosen();
  const entries = [["", t("no_style")], ...Object.entries(cogview.styles).map(([name, words]) => [name, words[state.language] ?? name])];
  const chips = entries.map(([name, words]) => make("label", {},
    make("input", { type: "radio", name: "style", value: name, checked: name === chosen }), make("span", { textContent: words })));
  find("#styles").replaceChildren(find("#styles legend"), ...chips);
  find("#styles").hidden = entries.length < 2;
  if (!find("#styles input:checked")) find("#styles input").checked = true;
  find("#size").replaceChildren(...cogview.sizes.map((size) => make("option", { textContent: size })));
  find("#size-field").hidden = cogview.sizes.length < 2;
  find("#best-field").hidden = !cogview.abilities.includes("score");
  const editing = able("edit");
  find("#can-edit").hidden = !editing;
  find("#cannot-edit").hidden = Boolean(editing);
  find("#cannot-edit").replaceChildren(t("cannot_edit"), make("code", { textContent: `cogview serve ${id} MODEL` }));
  for (const [section, ability] of [["caption", "caption"], ["score", "score"], ["upscale", "upscale"]]) {
    find(`#tool-${section}`).hidden = !able(ability);
  }
  for (const node of [find("#tab-tools"), find("#to-tools")]) node.textContent = t(able("upscale") ? "tools" : "describe");
  const nothing = !able("caption") && !able("upscale");
  find("#cannot-tools").hidden = !nothing;
  find("#cannot-tools").textContent = t("cannot_tools");
  find("#served").textContent = `${t("served")} ${state.models.map((each) => each.id).join(", ")}.`;
}

const styleChosen = () => find("#styles input:checked")?.value ?? "";
const SLIDERS = ["guidance", "temperature"];

function takeDefaults() {
  const { defaults } = model().cogview;
  for (const name of [...SLIDERS, "top_k", "top_p"]) find(`#${name}`).value = defaults[name];
  find("#best_of").value = "1";
  find("#size").selectedIndex = 0;
  showSliders();
}

function showSliders() {
  for (const range of every("input[type=range]")) find(`output[for="${range.id}"]`).textContent = range.value;
}

function settings() {
  const { defaults } = model().cogview;
  const found = {};
  for (const name of [...SLIDERS, "top_k", "top_p"]) {
    const field = find(`#${name}`);
    const wanted = Number(field.value);
    const clamped = SLIDERS.includes(name) && (defaults[name] < field.min || defaults[name] > field.max);
    if (field.value !== "" && !clamped && Math.abs(wanted - defaults[name]) > 1e-9) found[name] = wanted;
  }
  return found;
}

// ------------------------------------------------------------------------------------------ requests

async function working(panel, word, work) {
  if (state.busy) return;
  state.busy = new AbortController();
  const problem = find(".problem", panel);
  problem.hidden = true;
  for (const button of every(".go, [data-caption], #score-now, [data-times]")) button.disabled = true;
  find(".stop", panel).hidden = false;
  find("#pictures").setAttribute("aria-busy", "true");
  say(t(word));
  try {
    await work(state.busy.signal);
  } catch (error) {
    const told = explained(error);
    say(told);
    if (error.name !== "AbortError") Object.assign(problem, { hidden: false, textContent: told });
    if (error.status === 401) askForKey();
  } finally {
    state.busy = null;
    find("#pictures").setAttribute("aria-busy", "false");
    for (const button of every(".go, [data-caption], #score-now, [data-times]")) button.disabled = false;
    for (const button of every(".stop")) button.hidden = true;
  }
}

function explained(error) {
  if (error.name === "AbortError") return t("stopped");
  if (error instanceof Refused) return error.status === 429 ? t("busy", { seconds: error.retryAfter }) : error.message;
  return error instanceof TypeError ? t("away") : String(error.message ?? error);
}

const say = (text) => { find("#status").textContent = text; };
const seedOf = (field) => (field.value.trim() === "" ? null : Number(field.value));

async function drawNow() {
  const prompt = find("#prompt").value;
  if (!prompt.trim()) return find("#prompt").focus();
  const asked = { prompt, model: model().id, n: Number(find("input[name=n]:checked").value), ...settings() };
  if (styleChosen()) asked.style = styleChosen();
  if (seedOf(find("#seed")) !== null) asked.seed = seedOf(find("#seed"));
  if (!find("#size-field").hidden && find("#size").selectedIndex) asked.size = find("#size").value;
  if (find("#best_of").value !== "1") asked.best_of = Number(find("#best_of").value);
  await request(asked);
}

async function request(asked) {
  await working(find("#panel-draw"), "waiting", async (signal) => {
    const facts = { group: crypto.randomUUID(), kind: "draw", prompt: asked.prompt, style: asked.style ?? "", model: asked.model };
    const places = startGroup(facts, asked.n);
    let done = 0;
    try {
      for await (const event of draw(asked, signal)) {
        if (event.type.endsWith("partial_image")) {
          say(t("drawing"));
          showPartial(places[event.index], blobOf(event.b64_json));
        } else if (event.type.endsWith("completed")) {
          const picture = { ...facts, time: Date.now(), seed: event.seed, number: event.picture, size: event.size, blob: blobOf(event.b64_json) };
          await finish(places[event.index], { ...picture, asked });
          say(t("progress", { done: ++done, n: asked.n }));
        }
      }
      if (done < asked.n) throw new Error(t("lost"));
      say(t("ready", { n: done }));
    } finally {
      dropUnfinished(facts.group);
    }
  });
}

async function painted(panel, path, fields, files, facts) {
  await working(panel, "working", async (signal) => {
    facts.group = crypto.randomUUID();
    const places = startGroup(facts, Number(fields.n ?? 1));
    try {
      const { data, model: made } = await form(path, fields, files, signal);
      for (const [number, entry] of data.entries()) {
        const picture = { ...facts, model: made, time: Date.now(), seed: entry.seed, number: entry.picture, size: entry.size };
        await finish(places[number], { ...picture, blob: blobOf(entry.b64_json) });
      }
      say(t("ready", { n: data.length }));
    } finally {
      dropUnfinished(facts.group);
    }
  });
}

// ------------------------------------------------------------------------------------------ gallery

function startGroup(facts, n, old = false) {
  const list = make("ul", { className: "row" });
  const group = make("article", { className: "group" }, make("h3"), make("p", { className: "quiet" }), list);
  Object.assign(group.dataset, { group: facts.group, kind: facts.kind, prompt: facts.prompt, style: facts.style, model: facts.model });
  nameGroup(group);
  find("#groups").prepend(group);
  find("#empty").hidden = true;
  find("#forget").hidden = false;
  const places = Array.from({ length: n }, () => {
    const place = make("li", { className: "unfinished" }, make("div", { className: "frame" }));
    place.firstChild.setAttribute("aria-label", t("unfinished", { prompt: facts.prompt }));
    place.firstChild.setAttribute("role", "img");
    list.append(place);
    return place;
  });
  if (!old && matchMedia("(max-width: 60rem)").matches) find("#pictures").scrollIntoView({ behavior: "smooth" });
  return places;
}

function nameGroup(group) {
  const { kind, prompt, style, model: name } = group.dataset;
  const served = state.models.find((each) => each.id === name);
  const words = style && (served?.cogview.styles[style]?.[state.language] ?? style);
  find("h3", group).textContent = prompt || t(`kind_${kind}`);
  find("p", group).textContent = [
    kind === "draw" ? "" : t(`kind_${kind}`), words, state.models.length > 1 ? name : "",
  ].filter(Boolean).join(" · ");
}

function showPartial(place, blob) {
  const image = find("img", place) ?? place.firstChild.appendChild(make("img", { alt: "" }));
  const before = image.src;
  image.src = URL.createObjectURL(blob);
  if (before) URL.revokeObjectURL(before);
}

async function finish(place, picture) {
  try {
    picture.id = await store.add(picture);
  } catch {
    say(t("not_kept"));
    picture.id = -Date.now() - Math.random();
  }
  placePicture(place, picture);
}

function placePicture(place, picture) {
  picture.url = URL.createObjectURL(picture.blob);
  const alt = t("picture", { prompt: picture.prompt || t(`kind_${picture.kind}`), number: picture.number + 1 });
  const button = make("button", { type: "button", className: "frame" }, make("img", { src: picture.url, alt }));
  button.addEventListener("click", () => openViewer(picture));
  place.className = "";
  place.dataset.id = picture.id;
  place.replaceChildren(button);
  state.shown.push(picture);
}

function dropUnfinished(group) {
  const own = find(`.group[data-group="${group}"]`);
  for (const place of every(".unfinished", own)) place.remove();
  if (!find("li", own)) own.remove();
  showEmpty();
}

function showEmpty() {
  const none = !find(".group");
  find("#empty").hidden = !none;
  find("#forget").hidden = none;
}

async function showKept() {
  const groups = new Map();
  for (const picture of await store.all().catch(() => [])) {
    if (!groups.has(picture.group)) groups.set(picture.group, []);
    groups.get(picture.group).push(picture);
  }
  for (const pictures of groups.values()) {
    const places = startGroup(pictures[0], pictures.length, true);
    pictures.forEach((picture, number) => placePicture(places[number], picture));
  }
}

async function forget(picture) {
  state.shown = state.shown.filter((each) => each !== picture);
  await store.remove(picture.id).catch(() => {});
  const place = find(`li[data-id="${picture.id}"]`);
  const group = place.closest(".group");
  place.remove();
  URL.revokeObjectURL(picture.url);
  if (!find("li", group)) group.remove();
  showEmpty();
}

// ------------------------------------------------------------------------------------------ one picture

function order() {
  const places = every("#groups li[data-id]").map((place) => Number(place.dataset.id));
  return places.map((id) => state.shown.find((picture) => picture.id === id));
}

function openViewer(picture) {
  state.at = order().indexOf(picture);
  showPicture(picture);
  const viewer = find("#viewer");
  if (!viewer.open) viewer.showModal();
}

function showPicture(picture) {
  find("#large").src = picture.url;
  find("#large").alt = t("picture", { prompt: picture.prompt, number: picture.number + 1 });
  find("#viewer-title").textContent = picture.prompt || t(`kind_${picture.kind}`);
  const facts = { fact_style: picture.style, fact_seed: picture.seed, fact_number: picture.number + 1, fact_size: picture.size.replace("x", " × "), fact_model: picture.model };
  find("#facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== "" && value !== undefined)
    .map(([name, value]) => make("div", {}, make("dt", { textContent: t(name) }), make("dd", { textContent: value }))));
  find("#command").textContent = command(picture);
  find("#copy").textContent = t("copy");
  Object.assign(find("#download"), { href: picture.url, download: `${fileName(picture)}.png` });
  find("#again").hidden = picture.kind !== "draw";
  find("#to-edit").hidden = !able("edit");
  find("#to-tools").hidden = !able("caption") && !able("upscale");
  find("#previous").disabled = state.at <= 0;
  find("#next").disabled = state.at >= order().length - 1;
}

const quoted = (text) => (/^[\w.,:/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
const fileName = ({ prompt, seed, number }) => `${prompt.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "picture"}-${seed}-${String(number).padStart(2, "0")}`;

const DEFAULTS = { draw: "pictogram", upscale: "pictogram", edit: "pictogram-2" }; // of the command line

// The command line that makes the same picture.
function command(picture) {
  const { kind, prompt, seed, number, style, times, asked = {} } = picture;
  const options = { model: picture.model === DEFAULTS[kind] ? "" : picture.model, seed, style };
  if (kind === "edit") return line("edit", ["picture.png", prompt], { mask: "mask.png", n: number + 1, ...options });
  if (kind === "upscale") return line("upscale", ["picture.png"], { times, ...options, ...(prompt ? { prompt } : {}) });
  const n = asked.best_of > 1 ? asked.n : number + 1;
  for (const setting of ["guidance", "temperature", "top_k", "top_p", "best_of"]) options[setting] = asked[setting];
  const upscaled = able("generate") && asked.size && !model().cogview.abilities.includes("edit");
  if (upscaled) options.upscale = parseInt(asked.size, 10) / parseInt(model().cogview.sizes[0], 10);
  return line("generate", [prompt], { n, ...options });
}

function line(verb, values, options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const words = given.flatMap(([name, value]) => [name === "n" ? "-n" : `--${name.replaceAll("_", "-")}`, quoted(value)]);
  return ["cogview", verb, ...values.map(quoted), ...words, "-o", "out/"].join(" ");
}

function step(by) {
  const next = order()[state.at + by];
  if (!next) return;
  state.at += by;
  showPicture(next);
}

async function again() {
  const picture = order()[state.at];
  find("#viewer").close();
  openTab("draw");
  find("#prompt").value = picture.prompt;
  find("#seed").value = picture.seed;
  const chip = every("#styles input").find((input) => input.value === picture.style);
  if (chip) chip.checked = true;
  const { best_of: best } = picture.asked ?? {};
  const one = best > 1 ? {} : { n: 1, first: picture.number };
  await request({ prompt: picture.prompt, model: model().id, ...picture.asked, seed: picture.seed, ...one });
}

// ------------------------------------------------------------------------------------------ edit and tools

const painter = new Painter(find("#canvas"));

async function take(blob, where) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    const problem = find(".problem", find(`#panel-${where}`));
    return Object.assign(problem, { hidden: false, textContent: t("not_picture") });
  }
  find(".problem", find(`#panel-${where}`)).hidden = true;
  if (where === "edit") {
    state.edited = blob;
    find("#edit-drop").hidden = true;
    find("#painter").hidden = false;
    painter.load(bitmap);
  } else {
    state.tool = blob;
    const image = find("#tools-picture");
    if (image.src) URL.revokeObjectURL(image.src);
    Object.assign(image, { src: URL.createObjectURL(blob), hidden: false });
    find("#captions").replaceChildren();
    find("#scores").replaceChildren();
  }
}

async function editNow() {
  const panel = find("#panel-edit");
  const problem = find(".problem", panel);
  if (!painter.painted) return Object.assign(problem, { hidden: false, textContent: t("nothing_painted") });
  const prompt = find("#edit-prompt").value;
  const fields = { prompt, n: find("#edit-n").value, seed: seedOf(find("#edit-seed")), model: able("edit").id };
  const files = { image: state.edited, mask: await painter.file() };
  await painted(panel, "/v1/images/edits", fields, files, { kind: "edit", prompt, style: "", model: fields.model });
}

const tool = (work) => () => {
  const panel = find("#panel-tools");
  if (!state.tool) return Object.assign(find(".problem", panel), { hidden: false, textContent: t("no_picture") });
  return work(panel);
};

function describe(language) {
  return tool((panel) => working(panel, "working", async (signal) => {
    const { data } = await form("/v1/captions", { language, n: 2 }, { image: state.tool }, signal);
    const lines = data[0].captions.map((caption) => make("li", { textContent: caption.text, lang: language }));
    find("#captions").replaceChildren(...lines);
    say("");
  }));
}

const compare = tool((panel) => working(panel, "working", async (signal) => {
  const prompt = find("#sentence").value;
  const { data } = await form("/v1/scores", { prompt }, { image: state.tool }, signal);
  const loss = data[0].scores[0].caption_loss.toFixed(3);
  find("#scores").prepend(make("li", {}, make("strong", { textContent: loss }), ` ${prompt}`));
  say(t("score_hint"));
}));

function enlarge(times) {
  return tool((panel) => painted(panel, "/v1/images/upscales", { times }, { image: state.tool }, { kind: "upscale", prompt: "", style: "", times }));
}

function openTab(name) {
  for (const tab of every("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    find(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
  }
}

const openedTab = () => find("[role=tab][aria-selected=true]").id.slice(4);

function askForKey() {
  const dialog = find("#key-dialog");
  if (!dialog.open) dialog.showModal();
}

// ------------------------------------------------------------------------------------------ wiring

function wireTabs() {
  const tabs = every("[role=tab]");
  for (const [number, tab] of tabs.entries()) {
    tab.addEventListener("click", () => openTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = tabs[(number + by + tabs.length) % tabs.length];
      openTab(next.id.slice(4));
      next.focus();
    });
  }
}

function wireForms() {
  const submits = { "#panel-draw": drawNow, "#panel-edit": editNow, "#panel-tools": compare };
  for (const [panel, submit] of Object.entries(submits)) {
    find(panel).addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  }
  for (const area of every("textarea")) {
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
    });
  }
  for (const button of every(".stop")) button.addEventListener("click", () => state.busy?.abort());
  for (const range of every("input[type=range]")) range.addEventListener("input", showSliders);
  find("#reset").addEventListener("click", takeDefaults);
  find("#model").addEventListener("change", () => { showModel(); takeDefaults(); });
  for (const button of every("[data-language]")) button.addEventListener("click", () => speak(button.dataset.language));
  for (const button of every("[data-caption]")) button.addEventListener("click", describe(button.dataset.caption));
  for (const button of every("[data-times]")) button.addEventListener("click", enlarge(Number(button.dataset.times)));
  find("#score-now").addEventListener("click", compare);
}

function wirePainter() {
  for (const radio of every("input[name=brush]")) radio.addEventListener("change", () => { painter.erasing = radio.value === "erase"; });
  find("#brush-size").addEventListener("input", (event) => { painter.brush = Number(event.target.value); });
  find("#undo").addEventListener("click", () => painter.undo());
  find("#clear-mask").addEventListener("click", () => painter.clear());
  find("#invert").addEventListener("click", () => painter.invert());
  find("#another").addEventListener("click", () => { find("#painter").hidden = true; find("#edit-drop").hidden = false; });
}

function wireFiles() {
  for (const drop of every(".drop")) {
    const where = drop.dataset.drop;
    find("input[type=file]", drop).addEventListener("change", (event) => { if (event.target.files[0]) take(event.target.files[0], where); });
    for (const name of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", name === "dragover");
        if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0], where);
      });
    }
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file && openedTab() !== "draw") take(file, openedTab());
  });
}

function wireViewer() {
  const viewer = find("#viewer");
  find("#close-viewer").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  find("#previous").addEventListener("click", () => step(-1));
  find("#next").addEventListener("click", () => step(1));
  find("#again").addEventListener("click", again);
  find("#copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(find("#command").textContent);
    find("#copy").textContent = t("copied");
  });
  find("#delete").addEventListener("click", async () => {
    await forget(order()[state.at]);
    viewer.close();
  });
  for (const where of ["edit", "tools"]) {
    find(`#to-${where}`).addEventListener("click", () => {
      const picture = order()[state.at];
      viewer.close();
      openTab(where);
      take(picture.blob, where);
      if (where === "edit") find("#edit-prompt").value = picture.prompt;
      else find("#sentence").value = picture.prompt;
    });
  }
  find("#forget").addEventListener("click", async () => {
    if (!confirm(t("forget_sure"))) return;
    await store.clear().catch(() => {});
    state.shown = [];
    find("#groups").replaceChildren();
    showEmpty();
  });
}

async function begin() {
  try {
    await loadModels();
  } catch (error) {
    if (error.status === 401) return askForKey();
    Object.assign(find("#panel-draw .problem"), { hidden: false, textContent: explained(error) });
  }
  return null;
}

wireTabs();
wireForms();
wirePainter();
wireFiles();
wireViewer();
find("#key-dialog form").addEventListener("submit", () => { remember(find("#key").value.trim()); begin(); });
speak(localStorage.getItem("cogview-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
await begin();
await showKept();
document.body.dataset.ready = "true";
