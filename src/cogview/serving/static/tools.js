// What is done with a picture: parts or all of it made again, described, compared with sentences, enlarged.

import { form } from "./api.js";
import { calm, complain, every, find, make, problem, say, state, t, whenSpoken } from "./page.js";
import { factsOf, painted } from "./gallery.js";
import { Painter } from "./mask.js";
import { able, seedOf } from "./models.js";
import { enqueue } from "./queue.js";

const painter = new Painter(find("#canvas"));
const pictures = { edit: null, tools: null };
let scores = []; // of the picture: {prompt, percentile, others, caption_loss}
let closest = [];

export async function take(blob, where) {
  const told = find(".problem", find(`#panel-${where}`));
  calm(told);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return complain(told, problem("not_picture"));
  }
  pictures[where] = blob;
  if (where === "edit") {
    find("#edit-drop").hidden = true;
    find("#painter").hidden = false;
    return painter.load(bitmap);
  }
  const image = find("#tools-picture");
  if (image.src) URL.revokeObjectURL(image.src);
  Object.assign(image, { src: URL.createObjectURL(blob), hidden: false, alt: t("chosen_picture") });
  find("#captions").replaceChildren();
  [scores, closest] = [[], []];
  return showScores();
}

// ------------------------------------------------------------------------------------------ edits

const anywhere = () => find("input[name=where]:checked").value === "anywhere";

function showWhere() {
  for (const node of every(".painted-only")) node.hidden = anywhere();
  find("#painter-help").hidden = anywhere();
  find("#strength-field").hidden = !anywhere();
  find("#edit-prompt").required = !anywhere();
  find("#canvas").tabIndex = anywhere() ? -1 : 0;
  painter.locked = anywhere();
  painter.show(null);
}

function editNow() {
  const panel = find("#panel-edit");
  calm(find(".problem", panel));
  const prompt = find("#edit-prompt").value;
  const served = able("edit");
  const fields = { prompt, n: find("#edit-n").value, seed: seedOf(find("#edit-seed")), model: served.id, negative_prompt: find("#edit-negative").value.trim() };
  if (anywhere()) {
    const share = Number(find("#strength").value) / 100;
    const facts = factsOf("vary", prompt, "", served.id, { share });
    return painted("/v1/images/variations", { ...fields, share }, { image: pictures.edit }, facts, panel);
  }
  if (!painter.painted) return complain(find(".problem", panel), problem("nothing_painted"));
  const image = pictures.edit;
  const files = painter.file().then((mask) => ({ image, mask }));
  return painted("/v1/images/edits", fields, files, factsOf("edit", prompt, "", served.id), panel);
}

// ------------------------------------------------------------------------------------------ words

// A request that is answered by words; its line stands in the panel.
async function asked(title, work) {
  const panel = find("#panel-tools");
  const told = find(".problem", panel);
  calm(told);
  if (!pictures.tools) return complain(told, problem("no_picture"));
  const picture = pictures.tools;
  const job = enqueue(title, (options) => work(picture, options));
  const place = make("li", {}, job.line);
  find("#pending").append(place);
  try {
    const result = await job.done;
    if (pictures.tools === picture) return result;
  } catch (error) {
    if (error.name !== "AbortError") complain(told, error);
  } finally {
    place.remove();
  }
  return null;
}

async function describe(language) {
  const found = await asked(t(`describe_${language}`), (image, options) => form("/v1/captions", { language, n: 2 }, { image }, options));
  if (!found) return;
  find("#captions").replaceChildren(...found.data[0].captions.map((caption) => make("li", { textContent: caption.text, lang: language })));
  say("described");
}

async function compare() {
  const prompts = [...new Set(find("#sentence").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (!prompts.length) return find("#sentence").focus();
  const found = await asked(t("score"), (image, options) => form("/v1/scores", { prompt: prompts, compare: "true" }, { image }, options));
  if (!found) return null;
  const fresh = found.data[0].scores;
  scores = [...scores.filter((old) => !prompts.includes(old.prompt)), ...fresh];
  closest = fresh[0].closest ?? [];
  showScores();
  find("#scores").scrollIntoView({ block: "nearest" });
  return say("compared");
}

const VERDICTS = [[95, "fits_best"], [80, "fits_well"], [50, "fits_somewhat"], [20, "fits_hardly"], [0, "fits_not"]];

function showScores() {
  scores.sort((a, b) => (b.percentile ?? 0) - (a.percentile ?? 0) || a.caption_loss - b.caption_loss);
  find("#scores").replaceChildren(...scores.map(({ prompt, percentile, others, caption_loss: loss }) => {
    if (percentile === undefined) return make("li", {}, make("strong", { textContent: prompt }), make("p", { textContent: t("score_loss", { loss: loss.toFixed(2) }) }));
    const verdict = t(VERDICTS.find(([least]) => percentile >= least)[1]);
    const told = t("better_than", { count: Math.round((percentile / 100) * others), others });
    const bar = make("div", { className: "meter", aria: { role: "meter", label: prompt, valuemin: 0, valuemax: 100, valuenow: percentile } }, make("div"));
    bar.firstChild.style.width = `${percentile}%`;
    return make("li", {}, make("strong", { textContent: prompt }), bar,
      make("p", {}, make("b", { textContent: verdict }), ` ${told}`), make("p", { className: "quiet", textContent: t("score_loss", { loss: loss.toFixed(2) }) }));
  }));
  find("#closest").textContent = closest.length ? t("closest", { sentences: closest.map((one) => one.prompt).join(" · ") }) : "";
}

function enlarge(times) {
  const panel = find("#panel-tools");
  calm(find(".problem", panel));
  if (!pictures.tools) return complain(find(".problem", panel), problem("no_picture"));
  const facts = factsOf("upscale", "", "", able("upscale").id, { times });
  return painted("/v1/images/upscales", { times, model: facts.model }, { image: pictures.tools }, facts, panel);
}

// ------------------------------------------------------------------------------------------ wiring

function wirePainter() {
  for (const radio of every("input[name=brush]")) radio.addEventListener("change", () => { painter.erasing = radio.value === "erase"; });
  for (const radio of every("input[name=where]")) radio.addEventListener("change", showWhere);
  find("#brush-size").addEventListener("input", (event) => { painter.brush = Number(event.target.value); });
  find("#undo").addEventListener("click", () => painter.undo());
  find("#clear-mask").addEventListener("click", () => painter.clear());
  find("#invert").addEventListener("click", () => painter.invert());
  find("#another").addEventListener("click", () => { find("#painter").hidden = true; find("#edit-drop").hidden = false; });
}

function wireFiles() {
  for (const drop of every("[data-drop]")) {
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
    if (file && ["edit", "tools"].includes(state.tab)) take(file, state.tab);
  });
}

export function wireTools() {
  wirePainter();
  wireFiles();
  find("#panel-edit").addEventListener("submit", (event) => { event.preventDefault(); editNow(); });
  find("#panel-tools").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
  for (const node of every("[data-caption]")) node.addEventListener("click", () => describe(node.dataset.caption));
  for (const node of every("[data-times]")) node.addEventListener("click", () => enlarge(Number(node.dataset.times)));
  find("#score-now").addEventListener("click", compare);
  whenSpoken(showScores);
}
