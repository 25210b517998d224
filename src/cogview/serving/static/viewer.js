// One picture, large: what made it, and what can be done with it.

import { blobOf, form } from "./api.js";
import { calm, complain, every, find, make, state, t, whenSpoken } from "./page.js";
import { factsOf, forget, generate, order, painted, whenOpened } from "./gallery.js";
import { able, chooseStyle, model } from "./models.js";
import { enqueue } from "./queue.js";
import { take } from "./tools.js";
import { openTab } from "./tabs.js";

let at = -1;
const viewer = find("#viewer");
const current = () => order()[at];

function open(picture) {
  at = order().indexOf(picture);
  show(picture);
  if (!viewer.open) viewer.showModal();
}

function show(picture) {
  calm(find(".problem", viewer));
  find("#large").src = picture.url;
  find("#large").alt = t("picture", { prompt: picture.prompt, number: picture.number + 1 });
  find("#viewer-title").textContent = picture.prompt || t(`kind_${picture.kind}`);
  const { asked = {} } = picture;
  const facts = {
    fact_style: picture.style, fact_negative: asked.negative_prompt, fact_seed: picture.seed,
    fact_number: Number.isInteger(picture.number) ? picture.number + 1 : undefined,
    fact_size: picture.size?.replace("x", " × "), fact_model: picture.model,
  };
  find("#facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== "" && value !== undefined)
    .map(([name, value]) => make("div", {}, make("dt", { textContent: t(name) }), make("dd", { textContent: value }))));
  find("#command").textContent = command(picture);
  find("#copy").textContent = t("copy");
  Object.assign(find("#download"), { href: picture.url, download: `${fileName(picture)}.png` });
  find("#again").hidden = picture.kind !== "draw";
  find("#vary").hidden = find("#to-edit").hidden = !able("edit");
  find("#enlarge-this").hidden = !able("upscale") || picture.kind === "upscale";
  find("#to-tools").hidden = !able("caption") && !able("upscale");
  find("#previous").disabled = at <= 0;
  find("#next").disabled = at >= order().length - 1;
}

function step(by) {
  const next = order()[at + by];
  if (!next) return;
  at += by;
  show(next);
}

// ------------------------------------------------------------------------------------------ its command

const quoted = (text) => (/^[\w.,:/-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);
const fileName = ({ prompt, seed, number }) => `${prompt.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "picture"}-${seed}-${String(number ?? 0).padStart(2, "0")}`;

const DEFAULTS = { draw: "pictogram", upscale: "pictogram", edit: "pictogram-2", vary: "pictogram-2" }; // of the command line

// The command line that makes the same picture.
function command(picture) {
  const { kind, prompt, seed, number, style, times, share, asked = {} } = picture;
  const options = { model: picture.model === DEFAULTS[kind] ? "" : picture.model, seed, style };
  if (kind === "edit") return line("edit", ["picture.png", prompt], { mask: "mask.png", n: number + 1, ...options });
  if (kind === "vary") return line("edit", ["picture.png", ...(prompt ? [prompt] : [])], { vary: share, n: number + 1, ...options });
  if (kind === "upscale") return line("upscale", ["picture.png"], { times, ...options, ...(prompt ? { prompt } : {}) });
  const n = asked.best_of > 1 ? asked.n : number + 1;
  for (const setting of ["guidance", "temperature", "top_k", "top_p", "best_of", "negative_prompt"]) options[setting] = asked[setting];
  const served = state.models.find((each) => each.id === picture.model) ?? model();
  const times_ = asked.size ? parseInt(asked.size, 10) / Math.min(...served.cogview.sizes.map((size) => parseInt(size, 10))) : 1;
  if (!served.cogview.two_stage && times_ > 1) options.upscale = times_;
  return line("generate", [prompt], { n, ...options });
}

function line(verb, values, options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined && value !== "" && value !== null);
  const words = given.flatMap(([name, value]) => [name === "n" ? "-n" : `--${name.replaceAll("_", "-")}`, quoted(value)]);
  return ["cogview", verb, ...values.map(quoted), ...words, "-o", "out/"].join(" ");
}

// ------------------------------------------------------------------------------------------ what can be done

function again() {
  const picture = current();
  viewer.close();
  openTab("draw");
  find("#prompt").value = picture.prompt;
  find("#seed").value = picture.seed;
  chooseStyle(picture.style);
  const { best_of: best } = picture.asked ?? {};
  const one = best > 1 ? {} : { n: 1, first: picture.number };
  generate({ prompt: picture.prompt, model: model().id, ...picture.asked, seed: picture.seed, ...one }, find("#panel-draw"));
}

function vary() {
  const { blob, prompt } = current();
  const share = 0.5;
  viewer.close();
  const facts = factsOf("vary", prompt, "", able("edit").id, { share });
  painted("/v1/images/variations", { prompt, n: 4, share, model: facts.model }, { image: blob }, facts, find(`#panel-${state.tab}`));
}

function enlarge() {
  const { blob, prompt } = current();
  viewer.close();
  const facts = factsOf("upscale", prompt, "", able("upscale").id, { times: 2 });
  painted("/v1/images/upscales", { times: 2, prompt, model: facts.model }, { image: blob }, facts, find(`#panel-${state.tab}`));
}

// The picture without its ground, as a file.
async function cutOut() {
  const picture = current();
  const problem = find(".problem", viewer);
  calm(problem);
  find("#cut-out").disabled = true;
  const job = enqueue(t("cut_out"), (options) => form("/v1/images/cutouts", {}, { image: picture.blob }, options));
  try {
    const { data } = await job.done;
    const url = URL.createObjectURL(blobOf(data[0].b64_json));
    make("a", { href: url, download: `${fileName(picture)}-transparent.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    complain(problem, error);
  } finally {
    find("#cut-out").disabled = false;
  }
}

export function wireViewer() {
  whenOpened(open);
  find("#close-viewer").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  const clicks = { previous: () => step(-1), next: () => step(1), again, vary, "enlarge-this": enlarge, "cut-out": cutOut };
  for (const [id, click] of Object.entries(clicks)) find(`#${id}`).addEventListener("click", click);
  find("#copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(find("#command").textContent);
    find("#copy").textContent = t("copied");
  });
  find("#delete").addEventListener("click", async () => {
    await forget(current());
    viewer.close();
  });
  for (const where of ["edit", "tools"]) {
    find(`#to-${where}`).addEventListener("click", () => {
      const picture = current();
      viewer.close();
      openTab(where);
      take(picture.blob, where);
      if (where === "edit") find("#edit-prompt").value = picture.prompt;
      else find("#sentence").value = picture.prompt;
    });
  }
  whenSpoken(() => { if (viewer.open) show(current()); });
}
