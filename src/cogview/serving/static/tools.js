// What the studio does with an image: edits, variations, captions, scores of sentences, upscaling.

import { postForm } from "./api.js";
import { clearError, find, findAll, make, onLanguageChange, pageError, setStatus, showError, state, t } from "./page.js";
import { createMetadata, transformImage } from "./gallery.js";
import { Painter } from "./mask.js";
import { modelWith, seedFrom } from "./models.js";
import { enqueue } from "./queue.js";

const painter = new Painter(find("#canvas"));
const images = { edit: null, tools: null };
let scores = []; // of the current image: {prompt, percentile, others, caption_loss}
let closest = [];

export async function loadImage(blob, panel) {
  const errorBox = find(".problem", find(`#panel-${panel}`));
  clearError(errorBox);
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return showError(errorBox, pageError("not_an_image"));
  }
  images[panel] = blob;
  if (panel === "edit") {
    find("#edit-drop").hidden = true;
    find("#painter").hidden = false;
    return painter.load(bitmap);
  }
  const image = find("#tools-picture");
  if (image.src) URL.revokeObjectURL(image.src);
  Object.assign(image, { src: URL.createObjectURL(blob), hidden: false, alt: t("chosen_image") });
  find("#captions").replaceChildren();
  [scores, closest] = [[], []];
  return showScores();
}

// ------------------------------------------------------------------------------------------ edits

const editsWholeImage = () => find("input[name=where]:checked").value === "anywhere";

function showEditMode() {
  for (const node of findAll(".painted-only")) node.hidden = editsWholeImage();
  find("#painter-help").hidden = editsWholeImage();
  find("#strength-field").hidden = !editsWholeImage();
  find("#edit-prompt").required = !editsWholeImage();
  find("#canvas").tabIndex = editsWholeImage() ? -1 : 0;
  painter.locked = editsWholeImage();
  painter.render(null);
}

function submitEdit() {
  const panel = find("#panel-edit");
  clearError(find(".problem", panel));
  const prompt = find("#edit-prompt").value;
  const modelInfo = modelWith("edit");
  const fields = { prompt, n: find("#edit-n").value, seed: seedFrom(find("#edit-seed")), model: modelInfo.id, negative_prompt: find("#edit-negative").value.trim() };
  if (editsWholeImage()) {
    const share = Number(find("#strength").value) / 100;
    const metadata = createMetadata("vary", prompt, "", modelInfo.id, { share });
    return transformImage("/v1/images/variations", { ...fields, share }, { image: images.edit }, metadata, panel);
  }
  if (!painter.hasMask) return showError(find(".problem", panel), pageError("nothing_painted"));
  const image = images.edit;
  const files = painter.toBlob().then((mask) => ({ image, mask }));
  return transformImage("/v1/images/edits", fields, files, createMetadata("edit", prompt, "", modelInfo.id), panel);
}

// ------------------------------------------------------------------------------------------ captions and scores

// Sends a request whose response is text; the panel shows its progress. Resolves to null if it fails or the image has changed.
async function requestText(title, work) {
  const panel = find("#panel-tools");
  const errorBox = find(".problem", panel);
  clearError(errorBox);
  if (!images.tools) return showError(errorBox, pageError("image_missing"));
  const image = images.tools;
  const job = enqueue(title, (options) => work(image, options));
  const item = make("li", {}, job.line);
  find("#pending").append(item);
  try {
    const result = await job.done;
    if (images.tools === image) return result;
  } catch (error) {
    if (error.name !== "AbortError") showError(errorBox, error);
  } finally {
    item.remove();
  }
  return null;
}

async function describe(language) {
  const response = await requestText(t(`describe_${language}`), (image, options) => postForm("/v1/captions", { language, n: 2 }, { image }, options));
  if (!response) return;
  find("#captions").replaceChildren(...response.data[0].captions.map((caption) => make("li", { textContent: caption.text, lang: language })));
  setStatus("described");
}

async function compare() {
  const prompts = [...new Set(find("#sentence").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  if (!prompts.length) return find("#sentence").focus();
  const response = await requestText(t("score"), (image, options) => postForm("/v1/scores", { prompt: prompts, compare: "true" }, { image }, options));
  if (!response) return null;
  const newScores = response.data[0].scores;
  scores = [...scores.filter((previous) => !prompts.includes(previous.prompt)), ...newScores];
  closest = newScores[0].closest ?? [];
  showScores();
  find("#scores").scrollIntoView({ block: "nearest" });
  return setStatus("compared");
}

const VERDICTS = [[95, "fits_best"], [80, "fits_well"], [50, "fits_somewhat"], [20, "fits_hardly"], [0, "fits_not"]];

function showScores() {
  scores.sort((a, b) => (b.percentile ?? 0) - (a.percentile ?? 0) || a.caption_loss - b.caption_loss);
  find("#scores").replaceChildren(...scores.map(({ prompt, percentile, others, caption_loss: loss }) => {
    if (percentile === undefined) return make("li", {}, make("strong", { textContent: prompt }), make("p", { textContent: t("score_loss", { loss: loss.toFixed(2) }) }));
    const verdict = t(VERDICTS.find(([minimum]) => percentile >= minimum)[1]);
    const comparison = t("better_than", { count: Math.round((percentile / 100) * others), others });
    const bar = make("div", { className: "meter", aria: { role: "meter", label: prompt, valuemin: 0, valuemax: 100, valuenow: percentile } }, make("div"));
    bar.firstChild.style.width = `${percentile}%`;
    return make("li", {}, make("strong", { textContent: prompt }), bar,
      make("p", {}, make("b", { textContent: verdict }), ` ${comparison}`), make("p", { className: "quiet", textContent: t("score_loss", { loss: loss.toFixed(2) }) }));
  }));
  find("#closest").textContent = closest.length ? t("closest", { sentences: closest.map((item) => item.prompt).join(" · ") }) : "";
}

function upscale(times) {
  const panel = find("#panel-tools");
  clearError(find(".problem", panel));
  if (!images.tools) return showError(find(".problem", panel), pageError("image_missing"));
  const metadata = createMetadata("upscale", "", "", modelWith("upscale").id, { times });
  return transformImage("/v1/images/upscales", { times, model: metadata.model }, { image: images.tools }, metadata, panel);
}

// ------------------------------------------------------------------------------------------ wiring

function wirePainter() {
  for (const radio of findAll("input[name=brush]")) radio.addEventListener("change", () => { painter.erasing = radio.value === "erase"; });
  for (const radio of findAll("input[name=where]")) radio.addEventListener("change", showEditMode);
  find("#brush-size").addEventListener("input", (event) => { painter.brush = Number(event.target.value); });
  find("#undo").addEventListener("click", () => painter.undo());
  find("#clear-mask").addEventListener("click", () => painter.clear());
  find("#invert").addEventListener("click", () => painter.invert());
  find("#another").addEventListener("click", () => { find("#painter").hidden = true; find("#edit-drop").hidden = false; });
}

function wireFiles() {
  for (const drop of findAll("[data-drop]")) {
    const panel = drop.dataset.drop;
    find("input[type=file]", drop).addEventListener("change", (event) => { if (event.target.files[0]) loadImage(event.target.files[0], panel); });
    for (const name of ["dragover", "dragleave", "drop"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.toggle("over", name === "dragover");
        if (name === "drop" && event.dataTransfer.files[0]) loadImage(event.dataTransfer.files[0], panel);
      });
    }
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((item) => item.type.startsWith("image/"));
    if (file && ["edit", "tools"].includes(state.tab)) loadImage(file, state.tab);
  });
}

export function wireTools() {
  wirePainter();
  wireFiles();
  find("#panel-edit").addEventListener("submit", (event) => { event.preventDefault(); submitEdit(); });
  find("#panel-tools").addEventListener("submit", (event) => { event.preventDefault(); compare(); });
  for (const node of findAll("[data-caption]")) node.addEventListener("click", () => describe(node.dataset.caption));
  for (const node of findAll("[data-times]")) node.addEventListener("click", () => upscale(Number(node.dataset.times)));
  find("#score-now").addEventListener("click", compare);
  onLanguageChange(showScores);
}
