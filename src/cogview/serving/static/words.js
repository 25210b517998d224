// Words of a prompt that the model never learnt, and what near them it does know, as buttons.

import { post } from "./api.js";
import { every, find, make, t, whenSpoken } from "./page.js";

const WAIT = 400; // milliseconds after the last letter
let timer = null;
let latest = null;
let told = null;

// {unknown: [{word, near}], unfamiliar: [word]} into an element, instead of what was there.
export function wordChips(place, { unknown = [], unfamiliar = [] }) {
  const lines = unknown.map(({ word, near }) => make("p", {}, make("span", { textContent: t("never_learnt", { word }) }),
    ...near.map((other) => chip(word, other))));
  if (unfamiliar.length) lines.push(make("p", { textContent: t("hardly_known", { words: unfamiliar.join(", ") }) }));
  for (const line of lines) line.className = "unknown";
  for (const old of every(".unknown", place)) old.remove();
  place.append(...lines);
  return lines.length;
}

function chip(word, other) {
  const node = make("button", { type: "button", className: "chip", textContent: other, aria: { label: t("replace", { word, other }) } });
  node.addEventListener("click", () => {
    const prompt = find("#prompt");
    prompt.value = replaced(prompt.value, word, other);
    prompt.focus();
    prompt.dispatchEvent(new Event("input"));
  });
  return node;
}

// The prompt with another word, and the article that goes with it.
export function replaced(prompt, word, other) {
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  if (/\p{Script=Han}/u.test(word)) return prompt.replace(word, () => other);
  return prompt.replace(new RegExp(`(?:\\b(an?)(\\s+))?\\b${escaped}\\b`, "i"), (_, article, space) => {
    if (!article) return other;
    const fitting = /^[aeiou]/i.test(other) ? "an" : "a";
    return `${article[0] === "A" ? `A${fitting.slice(1)}` : fitting}${space}${other}`;
  });
}

// Ask a while after the last letter; an answer that is too late counts no more.
export function watchWords(prompt, place, model) {
  prompt.addEventListener("input", () => {
    clearTimeout(timer);
    latest?.abort();
    timer = setTimeout(async () => {
      latest = new AbortController();
      told = prompt.value.trim() ? await post("/v1/prompts", { prompt: prompt.value, model: model() }, { signal: latest.signal }).catch(() => null) : null;
      showTold(place);
    }, WAIT);
  });
  whenSpoken(() => showTold(place));
}

function showTold(place) {
  place.hidden = !wordChips(place, told ?? {});
}
