// The server's models, and the form that generates images with them.

import { listModels } from "./api.js";
import { EXAMPLES } from "./texts.js";
import { clearError, find, findAll, make, onLanguageChange, state, t } from "./page.js";
import { generate } from "./gallery.js";
import { watchPrompt } from "./words.js";

const PREFERRED_SIDE = 144; // pixels: the default size is the smallest with at least this side

export const modelWith = (ability) => state.models.find((item) => item.cogview.abilities.includes(ability));
export const selectedModel = () => state.models.find((item) => item.id === find("#model").value) ?? state.models[0];
export const seedFrom = (field) => (field.value.trim() === "" ? null : Number(field.value));

export async function loadModels(selected = null) {
  const first = !state.models.length;
  const previous = selected ?? find("#model").value;
  state.models = await listModels();
  const generators = state.models.filter((item) => item.cogview.abilities.includes("generate"));
  find("#model").replaceChildren(...generators.map((item) => make("option", { value: item.id, textContent: item.id })));
  find("#model-field").hidden = generators.length < 2;
  if (generators.some((item) => item.id === previous)) find("#model").value = previous;
  showModel();
  if (first || selected) applyDefaults();
}

function showModel() {
  const { id, cogview } = selectedModel();
  const examples = (EXAMPLES[id] ?? EXAMPLES[""])[state.language];
  find("#examples").replaceChildren(...examples.map(([name, prompt]) => {
    const chip = make("button", { type: "button", className: "chip", textContent: name, title: prompt });
    chip.addEventListener("click", () => {
      find("#prompt").value = prompt;
      find("#prompt").focus();
      find("#prompt").dispatchEvent(new Event("input"));
    });
    return chip;
  }));
  const selected = selectedStyle();
  const entries = [["", t("no_style")], ...Object.entries(cogview.styles).map(([name, words]) => [name, words[state.language] ?? name])];
  const chips = entries.map(([name, words]) => make("label", {},
    make("input", { type: "radio", name: "style", value: name, checked: name === selected }), make("span", { textContent: words })));
  find("#styles").replaceChildren(find("#styles legend"), ...chips);
  find("#styles").hidden = entries.length < 2;
  if (!find("#styles input:checked")) find("#styles input").checked = true;
  showSizes(cogview);
  find("#best-field").hidden = !cogview.abilities.includes("score");
  const editModel = modelWith("edit");
  find("#can-edit").hidden = !editModel;
  find("#cannot-edit").hidden = Boolean(editModel);
  find("#cannot-edit").replaceChildren(t("cannot_edit"), make("code", { textContent: `cogview serve ${id} MODEL` }));
  for (const [section, ability] of [["caption", "caption"], ["score", "score"], ["upscale", "upscale"]]) {
    find(`#tool-${section}`).hidden = !modelWith(ability);
  }
  const noTools = !modelWith("caption") && !modelWith("upscale");
  find("#cannot-tools").hidden = !noTools;
  find("#cannot-tools").textContent = t("cannot_tools");
  find("#served").textContent = `${t("served")} ${new Intl.ListFormat(state.language, { type: "unit" }).format(state.models.map((item) => item.id))} · `;
}

const side = (size) => parseInt(size, 10);

function showSizes({ sizes }) {
  const previous = find("#size").value;
  const sorted = [...sizes].sort((a, b) => side(a) - side(b));
  find("#size").replaceChildren(...sorted.map((size, number) => {
    const effort = number === 0 ? "size_quick" : number === sorted.length - 1 && number > 1 ? "size_slow" : "size_plain";
    return make("option", { value: size, textContent: t(effort, { size: size.replace("x", " × ") }) });
  }));
  find("#size-field").hidden = sizes.length < 2;
  if (sizes.includes(previous)) find("#size").value = previous;
}

export const selectedStyle = () => find("#styles input:checked")?.value ?? "";
export function selectStyle(name) {
  const chip = findAll("#styles input").find((input) => input.value === name);
  if (chip) chip.checked = true;
}

// The default size: that of the second stage of a two-stage model, else the smallest size that is large enough.
function preferredSize({ sizes, two_stage }) {
  if (two_stage) return sizes[0];
  const sorted = [...sizes].sort((a, b) => side(a) - side(b));
  return sorted.find((size) => side(size) >= PREFERRED_SIDE) ?? sorted.at(-1) ?? "";
}

const SLIDERS = ["guidance", "temperature"];

export function applyDefaults() {
  const { cogview } = selectedModel();
  for (const name of [...SLIDERS, "top_k", "top_p"]) find(`#${name}`).value = cogview.defaults[name];
  find("#best_of").value = "1";
  find("#negative").value = "";
  find("#size").value = preferredSize(cogview);
  showSliders();
}

export function showSliders() {
  for (const range of findAll("input[type=range]")) find(`output[for="${range.id}"]`).textContent = range.value;
}

function changedSettings() {
  const { defaults } = selectedModel().cogview;
  const changed = {};
  for (const name of [...SLIDERS, "top_k", "top_p"]) {
    const field = find(`#${name}`);
    const value = Number(field.value);
    const clamped = SLIDERS.includes(name) && (defaults[name] < field.min || defaults[name] > field.max);
    if (field.value !== "" && !clamped && Math.abs(value - defaults[name]) > 1e-9) changed[name] = value;
  }
  return changed;
}

function submitPrompt() {
  const prompt = find("#prompt").value;
  if (!prompt.trim()) return find("#prompt").focus();
  const panel = find("#panel-draw");
  clearError(find(".problem", panel));
  const request = { prompt, model: selectedModel().id, n: Number(find("input[name=n]:checked").value), ...changedSettings() };
  if (selectedStyle()) request.style = selectedStyle();
  if (seedFrom(find("#seed")) !== null) request.seed = seedFrom(find("#seed"));
  if (!find("#size-field").hidden) request.size = find("#size").value;
  if (find("#best_of").value !== "1") request.best_of = Number(find("#best_of").value);
  if (find("#negative").value.trim()) request.negative_prompt = find("#negative").value.trim();
  return generate(request, panel);
}

export function wireGenerateForm() {
  find("#panel-draw").addEventListener("submit", (event) => { event.preventDefault(); submitPrompt(); });
  find("#reset").addEventListener("click", applyDefaults);
  find("#model").addEventListener("change", () => { showModel(); applyDefaults(); });
  for (const range of findAll("input[type=range]")) range.addEventListener("input", showSliders);
  watchPrompt(find("#prompt"), find("#words"), () => selectedModel().id);
  onLanguageChange(() => { if (state.models.length) showModel(); });
}
