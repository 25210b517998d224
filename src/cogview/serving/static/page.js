// Shared helpers: DOM elements, the page's language, status and error messages, durations.

import { ERRORS, TEXTS, interpolate } from "./texts.js";
import { ApiError } from "./api.js";

export const find = (selector, inside = document) => inside.querySelector(selector);
export const findAll = (selector, inside = document) => [...inside.querySelectorAll(selector)];
export const state = { language: "en", models: [], tab: "draw" };
export const t = (name, values = {}) => interpolate(TEXTS[state.language][name] ?? name, values);

export function make(tag, properties = {}, ...children) {
  const { data = {}, aria = {}, ...attributes } = properties;
  const node = Object.assign(document.createElement(tag), attributes);
  Object.assign(node.dataset, data);
  for (const [name, value] of Object.entries(aria)) node.setAttribute(name === "role" ? name : `aria-${name}`, value);
  node.append(...children);
  return node;
}

export const button = (name, onClick, className = "plain") => {
  const node = make("button", { type: "button", className, textContent: t(name), data: { text: name } });
  node.addEventListener("click", onClick);
  return node;
};

export const seconds = (value) => {
  const total = Math.max(0, Math.round(value));
  if (total < 60) return t("seconds", { n: total });
  if (total < 3600) return t("minutes", { n: Math.floor(total / 60), s: String(total % 60).padStart(2, "0") });
  return t("hours", { n: Math.floor(total / 3600), m: String(Math.floor((total % 3600) / 60)).padStart(2, "0") });
};

// ------------------------------------------------------------------------------------------ language

const listeners = [];
export const onLanguageChange = (listener) => listeners.push(listener);

export function setLanguage(language) {
  state.language = language;
  localStorage.setItem("cogview-language", language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of findAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of findAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of findAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of findAll("[data-language]")) node.setAttribute("aria-pressed", node.dataset.language === language);
  for (const [node, error] of shownErrors) renderError(node, error);
  showStatus();
  for (const listener of listeners) listener();
}

// ------------------------------------------------------------------------------------------ status

let statusText = () => "";
export function setStatus(name, values = {}) {
  statusText = () => (name ? t(name, values) : "");
  showStatus();
}
const showStatus = () => { find("#status").textContent = statusText(); };

// ------------------------------------------------------------------------------------------ errors

const shownErrors = new Map(); // element to the error it shows, for translation when the language changes

// An error's message in the page's language: {text, detail}. The detail is the server's message, in English.
export function describeError(error) {
  if (error.name === "AbortError") return { text: t("stopped") };
  if (error.textKey) return { text: t(error.textKey, error.values) };
  if (error instanceof ApiError) {
    const { code, param, retryAfter, status, message } = error;
    const messages = ERRORS[state.language];
    const text = messages[`${code}:${param}`] ?? messages[code] ?? messages[String(status)] ?? messages.other;
    return { text: interpolate(text, { seconds: retryAfter || 5 }), detail: message };
  }
  return error instanceof TypeError ? { text: t("away") } : { text: ERRORS[state.language].other, detail: String(error.message ?? error) };
}

// An error that the page itself raises; textKey names its text in TEXTS.
export const pageError = (textKey, values = {}) => Object.assign(new Error(textKey), { textKey, values });

function renderError(node, error) {
  const { text, detail } = describeError(error);
  const parts = [make("p", { textContent: text })];
  if (detail) {
    parts.push(make("details", {}, make("summary", { textContent: t("detail") }), make("p", { lang: "en", textContent: detail })));
  }
  node.replaceChildren(...parts);
  node.hidden = false;
}

export function showError(node, error) {
  shownErrors.set(node, error);
  renderError(node, error);
}

export function clearError(node) {
  shownErrors.delete(node);
  node.hidden = true;
  node.replaceChildren();
}

export const clearAllErrors = () => { for (const node of [...shownErrors.keys()]) clearError(node); };
