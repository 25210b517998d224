// Words of a prompt that the model does not know, with buttons that replace them by similar known words.

import { post } from "./api.js";
import { find, findAll, make, onLanguageChange, t } from "./page.js";

const DELAY = 400; // milliseconds from the last keystroke to the request
let timer = null;
let pendingRequest = null;
let latestResult = null;

// Shows {unknown: [{word, near}], unfamiliar: [word]} in an element, replacing earlier lines; returns the number of lines.
export function showUnknownWords(container, { unknown = [], unfamiliar = [] }) {
  const lines = unknown.map(({ word, near }) => make("p", {}, make("span", { textContent: t("never_learnt", { word }) }),
    ...near.map((replacement) => replacementChip(word, replacement))));
  if (unfamiliar.length) lines.push(make("p", { textContent: t("hardly_known", { words: unfamiliar.join(", ") }) }));
  for (const line of lines) line.className = "unknown";
  for (const old of findAll(".unknown", container)) old.remove();
  container.append(...lines);
  return lines.length;
}

function replacementChip(word, replacement) {
  const node = make("button", { type: "button", className: "chip", textContent: replacement, aria: { label: t("replace", { word, other: replacement }) } });
  node.addEventListener("click", () => {
    const prompt = find("#prompt");
    prompt.value = replaceWord(prompt.value, word, replacement);
    prompt.focus();
    prompt.dispatchEvent(new Event("input"));
  });
  return node;
}

// Replaces a word of the prompt, and adapts the article before it.
export function replaceWord(prompt, word, replacement) {
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  if (/\p{Script=Han}/u.test(word)) return prompt.replace(word, () => replacement);
  return prompt.replace(new RegExp(`(?:\\b(an?)(\\s+))?\\b${escaped}\\b`, "i"), (_, article, space) => {
    if (!article) return replacement;
    const newArticle = /^[aeiou]/i.test(replacement) ? "an" : "a";
    return `${article[0] === "A" ? `A${newArticle.slice(1)}` : newArticle}${space}${replacement}`;
  });
}

// Checks the prompt some time after the last keystroke; a newer request cancels the previous one.
export function watchPrompt(prompt, container, model) {
  prompt.addEventListener("input", () => {
    clearTimeout(timer);
    pendingRequest?.abort();
    timer = setTimeout(async () => {
      pendingRequest = new AbortController();
      latestResult = prompt.value.trim() ? await post("/v1/prompts", { prompt: prompt.value, model: model() }, { signal: pendingRequest.signal }).catch(() => null) : null;
      showResult(container);
    }, DELAY);
  });
  onLanguageChange(() => showResult(container));
}

function showResult(container) {
  container.hidden = !showUnknownWords(container, latestResult ?? {});
}
