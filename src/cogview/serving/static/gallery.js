// The gallery: groups of images that are being generated, and those stored in this browser.

import { decodeBlob, postForm, streamGeneration } from "./api.js";
import { find, findAll, make, onLanguageChange, pageError, setStatus, showError, state, t } from "./page.js";
import { showUnknownWords } from "./words.js";
import { enqueue } from "./queue.js";
import * as store from "./store.js";

const PAGE_SIZE = 24; // stored groups that are shown at a time
let shownImages = [];
let olderGroups = [];
let onOpen = () => {};
let onUnauthorized = () => {};
export const setOnOpen = (listener) => { onOpen = listener; };
export const setOnUnauthorized = (listener) => { onUnauthorized = listener; };

// ------------------------------------------------------------------------------------------ requests

export function generate(request, panel) {
  const metadata = createMetadata("draw", request.prompt, request.style, request.model);
  let done = 0;
  return runInGroup(metadata, request.n, panel, async (options, group, slots) => {
    for await (const event of streamGeneration(request, options)) {
      if (event.words) showUnknownWords(notesOf(group), event.words);
      if (event.type === "ignored") addNote(group, t("ignored", { names: event.names }));
      else if (event.type.endsWith("partial_image")) showPartial(slots[event.index], decodeBlob(event.b64_json));
      else if (event.type.endsWith("completed")) {
        const image = { ...metadata, time: Date.now(), seed: event.seed, number: event.picture, size: event.size, asked: request };
        await storeAndShow(slots[event.index], { ...image, blob: decodeBlob(event.b64_json) });
        setStatus("progress", { done: ++done, n: request.n });
      }
    }
    if (done < request.n) throw pageError("lost");
    return done;
  });
}

// Sends a form that edits, varies or upscales an image. files: name to blob, or a promise of that.
export function transformImage(path, fields, files, metadata, panel) {
  return runInGroup(metadata, Number(fields.n ?? 1), panel, async (options, group, slots) => {
    const { data, model, ignored } = await postForm(path, fields, await files, options);
    if (ignored?.length) addNote(group, t("ignored", { names: ignored.join(", ") }));
    for (const [number, entry] of data.entries()) {
      const image = { ...metadata, model, time: Date.now(), seed: entry.seed, number: entry.picture, size: entry.size };
      await storeAndShow(slots[number], { ...image, blob: decodeBlob(entry.b64_json) });
    }
    return data.length;
  });
}

export function createMetadata(kind, prompt, style, model, more = {}) {
  return { group: crypto.randomUUID(), kind, prompt, style: style ?? "", model: model ?? "", time: Date.now(), ...more };
}

async function runInGroup(metadata, n, panel, work) {
  const { group, slots } = addGroup(metadata, n);
  const job = enqueue(metadata.prompt || t(`kind_${metadata.kind}`), (options) => work(options, group, slots));
  find(".facts-line", group).after(job.line);
  setStatus("queued");
  try {
    setStatus("ready", { n: await job.done });
  } catch (error) {
    if (error.name === "AbortError") setStatus("stopped");
    else {
      setStatus("");
      showError(find(".problem", panel), error);
      if (error.status === 401) onUnauthorized();
    }
    const hadFocus = group.contains(document.activeElement) || document.activeElement === document.body;
    removeUnfinished(group);
    if (hadFocus) find("#pictures").focus({ preventScroll: true });
  }
}

// ------------------------------------------------------------------------------------------ groups

function addGroup(metadata, n, stored = false) {
  const list = make("ul", { className: "row" });
  const { group: id, kind, prompt, style, model, time } = metadata;
  const group = make("article", { className: "group", data: { group: id, kind, prompt, style, model, time: time ?? "" } },
    make("h3"), make("p", { className: "quiet facts-line" }), list);
  showGroupTitle(group);
  if (stored) find("#groups").append(group);
  else find("#groups").prepend(group);
  const slots = Array.from({ length: n }, () => {
    const frame = make("div", { className: "frame", aria: { role: "img", label: t("unfinished", { prompt: prompt || t(`kind_${kind}`) }) } });
    const slot = make("li", { className: "unfinished" }, frame);
    list.append(slot);
    return slot;
  });
  updateControls();
  if (!stored && matchMedia("(max-width: 60rem)").matches) find("#pictures").scrollIntoView({ behavior: "smooth" });
  return { group, slots };
}

function showGroupTitle(group) {
  const { kind, prompt, style, model: name, time } = group.dataset;
  const modelInfo = state.models.find((item) => item.id === name);
  const styleName = style && (modelInfo?.cogview.styles[style]?.[state.language] ?? style);
  find("h3", group).textContent = prompt || t(`kind_${kind}`);
  const timeText = time && Date.now() - Number(time) > 6e5
    ? new Date(Number(time)).toLocaleString(state.language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" }) : "";
  find(".facts-line", group).textContent = [
    kind === "draw" || !prompt ? "" : t(`kind_${kind}`), styleName, state.models.length > 1 ? name : "", timeText,
  ].filter(Boolean).join(" · ");
}

const notesOf = (group) => find(".notes", group) ?? find(".facts-line", group).insertAdjacentElement("afterend", make("div", { className: "notes quiet" }));
const addNote = (group, text) => notesOf(group).append(make("p", { textContent: text }));

function showPartial(slot, blob) {
  const preview = find("img", slot) ?? slot.firstChild.appendChild(make("img", { alt: "" }));
  const before = preview.src;
  preview.src = URL.createObjectURL(blob);
  if (before) URL.revokeObjectURL(before);
}

async function storeAndShow(slot, image) {
  try {
    image.id = await store.add(image);
  } catch {
    setStatus("not_kept");
    image.id = -Date.now() - Math.random();
  }
  showImage(slot, image);
}

function showImage(slot, image) {
  image.url = URL.createObjectURL(image.blob);
  const preview = make("img", { src: image.url });
  const open = make("button", { type: "button", className: "frame" }, preview);
  open.addEventListener("click", () => onOpen(image));
  slot.className = "";
  slot.dataset.id = image.id;
  slot.replaceChildren(open);
  shownImages.push(image);
  setAltText(slot, image);
}

const titleOf = (image) => image.prompt || t(`kind_${image.kind}`);
const setAltText = (slot, image) => { find("img", slot).alt = t("image_alt", { prompt: titleOf(image), number: image.number + 1 }); };

function removeUnfinished(group) {
  for (const slot of findAll(".unfinished", group)) slot.remove();
  if (!find("li", group)) group.remove();
  updateControls();
}

function updateControls() {
  const hasGroups = Boolean(find(".group"));
  find("#empty").hidden = hasGroups;
  find("#forget").hidden = !hasGroups;
  find("#search").hidden = !hasGroups;
  find("#older").hidden = !olderGroups.length;
}

// ------------------------------------------------------------------------------------------ stored images

export async function showStored() {
  const groups = new Map();
  for (const image of await store.all().catch(() => [])) {
    if (!groups.has(image.group)) groups.set(image.group, []);
    groups.get(image.group).push(image);
  }
  olderGroups = [...groups.values()].reverse();
  showOlder();
}

export function showOlder(all = false) {
  for (const images of olderGroups.splice(0, all ? olderGroups.length : PAGE_SIZE)) {
    const { slots } = addGroup(images[0], images.length, true);
    images.forEach((image, number) => showImage(slots[number], image));
  }
  updateControls();
}

export function search(text) {
  if (text) showOlder(true);
  const terms = text.toLowerCase().split(/\s+/).filter(Boolean);
  let matches = 0;
  for (const group of findAll(".group")) {
    const content = `${group.textContent} ${group.dataset.style}`.toLowerCase();
    group.hidden = !terms.every((word) => content.includes(word));
    matches += group.hidden ? 0 : 1;
  }
  find("#nothing-found").hidden = matches > 0 || !findAll(".group").length;
}

export async function deleteImage(image) {
  shownImages = shownImages.filter((item) => item !== image);
  await store.remove(image.id).catch(() => {});
  const slot = find(`li[data-id="${image.id}"]`);
  const group = slot.closest(".group");
  slot.remove();
  URL.revokeObjectURL(image.url);
  if (!find("li", group)) group.remove();
  updateControls();
}

export async function deleteAllImages() {
  await store.clear().catch(() => {});
  for (const group of findAll(".group")) if (!find(".unfinished", group)) group.remove();
  [shownImages, olderGroups] = [[], []];
  updateControls();
}

// The images in the order in which the page shows them.
export function imagesInOrder() {
  const slots = findAll("#groups .group:not([hidden]) li[data-id]").map((slot) => Number(slot.dataset.id));
  return slots.map((id) => shownImages.find((image) => image.id === id));
}

onLanguageChange(() => {
  for (const group of findAll(".group")) showGroupTitle(group);
  for (const image of shownImages) setAltText(find(`li[data-id="${image.id}"]`), image);
});
