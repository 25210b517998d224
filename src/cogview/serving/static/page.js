// What all parts of the page use: elements, the page's language, problems, times.

import { ERRORS, TEXTS, filled } from "./texts.js";
import { Refused } from "./api.js";

export const find = (selector, inside = document) => inside.querySelector(selector);
export const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
export const state = { language: "en", models: [], tab: "draw" };
export const t = (name, values = {}) => filled(TEXTS[state.language][name] ?? name, values);

export function make(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...own } = properties;
  const node = Object.assign(document.createElement(tag), own);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(name === "role" ? name : `aria-${name}`, value);
  node.append(...children);
  return node;
}

export const button = (name, click, className = "plain") => {
  const node = make("button", { type: "button", className, textContent: t(name), data: { text: name } });
  node.addEventListener("click", click);
  return node;
};

export const seconds = (value) => {
  const whole = Math.max(0, Math.round(value));
  if (whole < 60) return t("seconds", { n: whole });
  if (whole < 3600) return t("minutes", { n: Math.floor(whole / 60), s: String(whole % 60).padStart(2, "0") });
  return t("hours", { n: Math.floor(whole / 3600), m: String(Math.floor((whole % 3600) / 60)).padStart(2, "0") });
};

// ------------------------------------------------------------------------------------------ language

const listeners = [];
export const whenSpoken = (listener) => listeners.push(listener);

export function speak(language) {
  state.language = language;
  localStorage.setItem("cogview-language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of every("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of every("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of every("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of every("[data-language]")) node.setAttribute("aria-pressed", node.dataset.language === language);
  for (const [node, problem] of problems) show(node, problem);
  sayAgain();
  for (const listener of listeners) listener();
}

// ------------------------------------------------------------------------------------------ status

let said = () => "";
export function say(name, values = {}) {
  said = () => (name ? t(name, values) : "");
  sayAgain();
}
const sayAgain = () => { find("#status").textContent = said(); };

// ------------------------------------------------------------------------------------------ problems

const problems = new Map(); // element to what is wrong, to be said again in another language

// What is wrong, in the page's language: {text, detail}. The server's own words, in English, are the detail.
export function explained(error) {
  if (error.name === "AbortError") return { text: t("stopped") };
  if (error.told) return { text: t(error.told, error.values) };
  if (error instanceof Refused) {
    const { code, param, retryAfter, status, message } = error;
    const known = ERRORS[state.language];
    const text = known[`${code}:${param}`] ?? known[code] ?? known[String(status)] ?? known.other;
    return { text: filled(text, { seconds: retryAfter || 5 }), detail: message };
  }
  return error instanceof TypeError ? { text: t("away") } : { text: ERRORS[state.language].other, detail: String(error.message ?? error) };
}

// A problem of the page itself, by the name of its text.
export const problem = (told, values = {}) => Object.assign(new Error(told), { told, values });

function show(node, error) {
  const { text, detail } = explained(error);
  const parts = [make("p", { textContent: text })];
  if (detail) {
    parts.push(make("details", {}, make("summary", { textContent: t("detail") }), make("p", { lang: "en", textContent: detail })));
  }
  node.replaceChildren(...parts);
  node.hidden = false;
}

export function complain(node, error) {
  problems.set(node, error);
  show(node, error);
}

export function calm(node) {
  problems.delete(node);
  node.hidden = true;
  node.replaceChildren();
}

export const calmAll = () => { for (const node of [...problems.keys()]) calm(node); };
