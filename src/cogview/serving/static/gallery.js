// The pictures of this browser: groups that are being made, and those that were.

import { blobOf, draw, form } from "./api.js";
import { complain, every, find, make, problem, say, state, t, whenSpoken } from "./page.js";
import { wordChips } from "./words.js";
import { enqueue } from "./queue.js";
import * as store from "./store.js";

const PAGE = 24; // older groups that are shown at once
let shown = [];
let older = [];
let onOpen = () => {};
let onKey = () => {};
export const whenOpened = (listener) => { onOpen = listener; };
export const whenKeyMissing = (listener) => { onKey = listener; };

// ------------------------------------------------------------------------------------------ requests

export function generate(asked, panel) {
  const facts = factsOf("draw", asked.prompt, asked.style, asked.model);
  let done = 0;
  return inGroup(facts, asked.n, panel, async (options, group, places) => {
    for await (const event of draw(asked, options)) {
      if (event.words) wordChips(notes(group), event.words);
      if (event.type === "ignored") note(group, t("ignored", { names: event.names }));
      else if (event.type.endsWith("partial_image")) showPartial(places[event.index], blobOf(event.b64_json));
      else if (event.type.endsWith("completed")) {
        const picture = { ...facts, time: Date.now(), seed: event.seed, number: event.picture, size: event.size, asked };
        await finish(places[event.index], { ...picture, blob: blobOf(event.b64_json) });
        say("progress", { done: ++done, n: asked.n });
      }
    }
    if (done < asked.n) throw problem("lost");
    return done;
  });
}

// files: name to blob, or a promise of them.
export function painted(path, fields, files, facts, panel) {
  return inGroup(facts, Number(fields.n ?? 1), panel, async (options, group, places) => {
    const { data, model, ignored } = await form(path, fields, await files, options);
    if (ignored?.length) note(group, t("ignored", { names: ignored.join(", ") }));
    for (const [number, entry] of data.entries()) {
      const picture = { ...facts, model, time: Date.now(), seed: entry.seed, number: entry.picture, size: entry.size };
      await finish(places[number], { ...picture, blob: blobOf(entry.b64_json) });
    }
    return data.length;
  });
}

export function factsOf(kind, prompt, style, model, more = {}) {
  return { group: crypto.randomUUID(), kind, prompt, style: style ?? "", model: model ?? "", time: Date.now(), ...more };
}

async function inGroup(facts, n, panel, work) {
  const { group, places } = startGroup(facts, n);
  const job = enqueue(facts.prompt || t(`kind_${facts.kind}`), (options) => work(options, group, places));
  find(".facts-line", group).after(job.line);
  say("queued");
  try {
    say("ready", { n: await job.done });
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else {
      say("");
      complain(find(".problem", panel), error);
      if (error.status === 401) onKey();
    }
    const held = group.contains(document.activeElement) || document.activeElement === document.body;
    dropUnfinished(group);
    if (held) find("#pictures").focus({ preventScroll: true });
  }
}

// ------------------------------------------------------------------------------------------ groups

function startGroup(facts, n, old = false) {
  const list = make("ul", { className: "row" });
  const { group: id, kind, prompt, style, model, time } = facts;
  const group = make("article", { className: "group", data: { group: id, kind, prompt, style, model, time: time ?? "" } },
    make("h3"), make("p", { className: "quiet facts-line" }), list);
  nameGroup(group);
  if (old) find("#groups").append(group);
  else find("#groups").prepend(group);
  const places = Array.from({ length: n }, () => {
    const frame = make("div", { className: "frame", aria: { role: "img", label: t("unfinished", { prompt: prompt || t(`kind_${kind}`) }) } });
    const place = make("li", { className: "unfinished" }, frame);
    list.append(place);
    return place;
  });
  showEmpty();
  if (!old && matchMedia("(max-width: 60rem)").matches) find("#pictures").scrollIntoView({ behavior: "smooth" });
  return { group, places };
}

function nameGroup(group) {
  const { kind, prompt, style, model: name, time } = group.dataset;
  const served = state.models.find((each) => each.id === name);
  const words = style && (served?.cogview.styles[style]?.[state.language] ?? style);
  find("h3", group).textContent = prompt || t(`kind_${kind}`);
  const when = time && Date.now() - Number(time) > 6e5
    ? new Date(Number(time)).toLocaleString(state.language === "zh" ? "zh-CN" : "en", { dateStyle: "medium", timeStyle: "short" }) : "";
  find(".facts-line", group).textContent = [
    kind === "draw" || !prompt ? "" : t(`kind_${kind}`), words, state.models.length > 1 ? name : "", when,
  ].filter(Boolean).join(" · ");
}

const notes = (group) => find(".notes", group) ?? find(".facts-line", group).insertAdjacentElement("afterend", make("div", { className: "notes quiet" }));
const note = (group, text) => notes(group).append(make("p", { textContent: text }));

function showPartial(place, blob) {
  const image = find("img", place) ?? place.firstChild.appendChild(make("img", { alt: "" }));
  const before = image.src;
  image.src = URL.createObjectURL(blob);
  if (before) URL.revokeObjectURL(before);
}

async function finish(place, picture) {
  try {
    picture.id = await store.add(picture);
  } catch {
    say("not_kept");
    picture.id = -Date.now() - Math.random();
  }
  putPicture(place, picture);
}

function putPicture(place, picture) {
  picture.url = URL.createObjectURL(picture.blob);
  const image = make("img", { src: picture.url });
  const open = make("button", { type: "button", className: "frame" }, image);
  open.addEventListener("click", () => onOpen(picture));
  place.className = "";
  place.dataset.id = picture.id;
  place.replaceChildren(open);
  shown.push(picture);
  describe(place, picture);
}

const titleOf = (picture) => picture.prompt || t(`kind_${picture.kind}`);
const describe = (place, picture) => { find("img", place).alt = t("picture", { prompt: titleOf(picture), number: picture.number + 1 }); };

function dropUnfinished(group) {
  for (const place of every(".unfinished", group)) place.remove();
  if (!find("li", group)) group.remove();
  showEmpty();
}

function showEmpty() {
  const some = Boolean(find(".group"));
  find("#empty").hidden = some;
  find("#forget").hidden = !some;
  find("#search").hidden = !some;
  find("#older").hidden = !older.length;
}

// ------------------------------------------------------------------------------------------ what was kept

export async function showKept() {
  const groups = new Map();
  for (const picture of await store.all().catch(() => [])) {
    if (!groups.has(picture.group)) groups.set(picture.group, []);
    groups.get(picture.group).push(picture);
  }
  older = [...groups.values()].reverse();
  showOlder();
}

export function showOlder(all = false) {
  for (const pictures of older.splice(0, all ? older.length : PAGE)) {
    const { places } = startGroup(pictures[0], pictures.length, true);
    pictures.forEach((picture, number) => putPicture(places[number], picture));
  }
  showEmpty();
}

export function search(text) {
  if (text) showOlder(true);
  const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const group of every(".group")) {
    const said = `${group.textContent} ${group.dataset.style}`.toLowerCase();
    group.hidden = !wanted.every((word) => said.includes(word));
    found += group.hidden ? 0 : 1;
  }
  find("#nothing-found").hidden = found > 0 || !every(".group").length;
}

export async function forget(picture) {
  shown = shown.filter((each) => each !== picture);
  await store.remove(picture.id).catch(() => {});
  const place = find(`li[data-id="${picture.id}"]`);
  const group = place.closest(".group");
  place.remove();
  URL.revokeObjectURL(picture.url);
  if (!find("li", group)) group.remove();
  showEmpty();
}

export async function forgetAll() {
  await store.clear().catch(() => {});
  for (const group of every(".group")) if (!find(".unfinished", group)) group.remove();
  [shown, older] = [[], []];
  showEmpty();
}

// The pictures in the order of the page.
export function order() {
  const places = every("#groups .group:not([hidden]) li[data-id]").map((place) => Number(place.dataset.id));
  return places.map((id) => shown.find((picture) => picture.id === id));
}

whenSpoken(() => {
  for (const group of every(".group")) nameGroup(group);
  for (const picture of shown) describe(find(`li[data-id="${picture.id}"]`), picture);
});
