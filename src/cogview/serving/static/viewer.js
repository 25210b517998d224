// The viewer: one image at full size, its settings, and the actions for it.

import { decodeBlob, postForm } from "./api.js";
import { clearError, find, make, onLanguageChange, showError, state, t } from "./page.js";
import { createMetadata, deleteImage, generate, imagesInOrder, setOnOpen, transformImage } from "./gallery.js";
import { modelWith, selectStyle, selectedModel } from "./models.js";
import { enqueue } from "./queue.js";
import { loadImage } from "./tools.js";
import { openTab } from "./tabs.js";

let currentIndex = -1;
const viewer = find("#viewer");
const current = () => imagesInOrder()[currentIndex];

function open(image) {
  currentIndex = imagesInOrder().indexOf(image);
  show(image);
  if (!viewer.open) viewer.showModal();
}

function show(image) {
  clearError(find(".problem", viewer));
  find("#large").src = image.url;
  find("#large").alt = t("image_alt", { prompt: image.prompt, number: image.number + 1 });
  find("#viewer-title").textContent = image.prompt || t(`kind_${image.kind}`);
  const { asked: request = {} } = image;
  const rows = {
    fact_style: image.style, fact_negative: request.negative_prompt, fact_seed: image.seed,
    fact_number: Number.isInteger(image.number) ? image.number + 1 : undefined,
    fact_size: image.size?.replace("x", " × "), fact_model: image.model,
  };
  find("#facts").replaceChildren(...Object.entries(rows).filter(([, value]) => value !== "" && value !== undefined)
    .map(([name, value]) => make("div", {}, make("dt", { textContent: t(name) }), make("dd", { textContent: value }))));
  find("#command").textContent = commandFor(image);
  find("#copy").textContent = t("copy");
  Object.assign(find("#download"), { href: image.url, download: `${fileNameOf(image)}.png` });
  find("#again").hidden = image.kind !== "draw";
  find("#vary").hidden = find("#to-edit").hidden = !modelWith("edit");
  find("#enlarge-this").hidden = !modelWith("upscale") || image.kind === "upscale";
  find("#to-tools").hidden = !modelWith("caption") && !modelWith("upscale");
  find("#previous").disabled = currentIndex <= 0;
  find("#next").disabled = currentIndex >= imagesInOrder().length - 1;
}

function step(offset) {
  const next = imagesInOrder()[currentIndex + offset];
  if (!next) return;
  currentIndex += offset;
  show(next);
}

// ------------------------------------------------------------------------------------------ command line

const quote = (text) => (/^[\w.,:/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
const fileNameOf = ({ prompt, seed, number }) => `${prompt.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "picture"}-${seed}-${String(number ?? 0).padStart(2, "0")}`;

const COMMAND_DEFAULTS = { draw: "pictogram", upscale: "pictogram", edit: "pictogram-2", vary: "pictogram-2" }; // the command line's default models

// The command line that reproduces an image.
function commandFor(image) {
  const { kind, prompt, seed, number, style, times, share, asked: request = {} } = image;
  const options = { model: image.model === COMMAND_DEFAULTS[kind] ? "" : image.model, seed, style };
  if (kind === "edit") return commandLine("edit", ["picture.png", prompt], { mask: "mask.png", n: number + 1, ...options });
  if (kind === "vary") return commandLine("edit", ["picture.png", ...(prompt ? [prompt] : [])], { vary: share, n: number + 1, ...options });
  if (kind === "upscale") return commandLine("upscale", ["picture.png"], { times, ...options, ...(prompt ? { prompt } : {}) });
  const n = request.best_of > 1 ? request.n : number + 1;
  for (const setting of ["guidance", "temperature", "top_k", "top_p", "best_of", "negative_prompt"]) options[setting] = request[setting];
  const modelInfo = state.models.find((item) => item.id === image.model) ?? selectedModel();
  const upscaleFactor = request.size ? parseInt(request.size, 10) / Math.min(...modelInfo.cogview.sizes.map((size) => parseInt(size, 10))) : 1;
  if (!modelInfo.cogview.two_stage && upscaleFactor > 1) options.upscale = upscaleFactor;
  return commandLine("generate", [prompt], { n, ...options });
}

function commandLine(verb, values, options) {
  const present = Object.entries(options).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const words = present.flatMap(([name, value]) => [name === "n" ? "-n" : `--${name.replaceAll("_", "-")}`, quote(value)]);
  return ["cogview", verb, ...values.map(quote), ...words, "-o", "out/"].join(" ");
}

// ------------------------------------------------------------------------------------------ actions

function regenerate() {
  const image = current();
  viewer.close();
  openTab("draw");
  find("#prompt").value = image.prompt;
  find("#seed").value = image.seed;
  selectStyle(image.style);
  const { best_of: bestOf } = image.asked ?? {};
  const overrides = bestOf > 1 ? {} : { n: 1, first: image.number };
  generate({ prompt: image.prompt, model: selectedModel().id, ...image.asked, seed: image.seed, ...overrides }, find("#panel-draw"));
}

function vary() {
  const { blob, prompt } = current();
  const share = 0.5;
  viewer.close();
  const metadata = createMetadata("vary", prompt, "", modelWith("edit").id, { share });
  transformImage("/v1/images/variations", { prompt, n: 4, share, model: metadata.model }, { image: blob }, metadata, find(`#panel-${state.tab}`));
}

function upscale() {
  const { blob, prompt } = current();
  viewer.close();
  const metadata = createMetadata("upscale", prompt, "", modelWith("upscale").id, { times: 2 });
  transformImage("/v1/images/upscales", { times: 2, prompt, model: metadata.model }, { image: blob }, metadata, find(`#panel-${state.tab}`));
}

// Downloads the image with a transparent background.
async function cutOut() {
  const image = current();
  const errorBox = find(".problem", viewer);
  clearError(errorBox);
  find("#cut-out").disabled = true;
  const job = enqueue(t("cut_out"), (options) => postForm("/v1/images/cutouts", {}, { image: image.blob }, options));
  try {
    const { data } = await job.done;
    const url = URL.createObjectURL(decodeBlob(data[0].b64_json));
    make("a", { href: url, download: `${fileNameOf(image)}-transparent.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    showError(errorBox, error);
  } finally {
    find("#cut-out").disabled = false;
  }
}

export function wireViewer() {
  setOnOpen(open);
  find("#close-viewer").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  const handlers = { previous: () => step(-1), next: () => step(1), again: regenerate, vary, "enlarge-this": upscale, "cut-out": cutOut };
  for (const [id, click] of Object.entries(handlers)) find(`#${id}`).addEventListener("click", click);
  find("#copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(find("#command").textContent);
    find("#copy").textContent = t("copied");
  });
  find("#delete").addEventListener("click", async () => {
    await deleteImage(current());
    viewer.close();
  });
  for (const tab of ["edit", "tools"]) {
    find(`#to-${tab}`).addEventListener("click", () => {
      const image = current();
      viewer.close();
      openTab(tab);
      loadImage(image.blob, tab);
      if (tab === "edit") find("#edit-prompt").value = image.prompt;
      else find("#sentence").value = image.prompt;
    });
  }
  onLanguageChange(() => { if (viewer.open) show(current()); });
}
