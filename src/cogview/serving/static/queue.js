// Requests of this page, one after another: where each is in the queue, how long it takes, each cancelled alone.

import { places } from "./api.js";
import { button, every, find, make, seconds, t, whenSpoken } from "./page.js";

const SENT = 3; // at a time, as browsers open six connections to a server; the others wait here
const jobs = [];
let timer = null;

// Runs work({signal, ticket}) when it is its turn. {line: an element that shows how far it is, done: a promise}.
export function enqueue(title, work) {
  const job = { work, ticket: crypto.randomUUID(), controller: new AbortController(), since: performance.now() };
  Object.assign(job, { sent: false, place: null, left: null, progress: 0, began: null, notBefore: 0 });
  job.bar = make("progress", { max: 1, aria: { hidden: "true" } });
  job.text = make("span", { className: "told" });
  const cancel = button("cancel", () => abandon(job), "button second stop");
  cancel.setAttribute("aria-describedby", (job.text.id = `job-${job.ticket}`));
  cancel.title = title;
  job.line = make("div", { className: "job" }, job.bar, job.text, cancel);
  job.done = new Promise((resolve, reject) => Object.assign(job, { resolve, reject }));
  jobs.push(job);
  pump();
  return job;
}

function abandon(job) {
  job.controller.abort();
  if (job.sent) return;
  leave(job);
  job.reject(new DOMException("", "AbortError"));
}

function pump() {
  const now = performance.now();
  for (const job of jobs) {
    if (jobs.filter((each) => each.sent).length >= SENT) break;
    if (!job.sent && job.notBefore <= now) send(job);
  }
  timer ??= setInterval(look, 1000);
  showAll();
}

async function send(job) {
  job.sent = true;
  try {
    job.resolve(await job.work({ signal: job.controller.signal, ticket: job.ticket }));
  } catch (error) {
    if (error.code === "queue_full" && !job.controller.signal.aborted) return again(job, error.retryAfter || 5);
    job.reject(error);
  }
  return leave(job);
}

// The server's queue is full: it is tried again when the server says.
function again(job, wait) {
  Object.assign(job, { sent: false, place: null, left: null, notBefore: performance.now() + 1000 * wait });
  setTimeout(pump, 1000 * wait + 50);
  showAll();
}

function leave(job) {
  jobs.splice(jobs.indexOf(job), 1);
  job.line.remove();
  pump();
}

async function look() {
  const sent = jobs.filter((job) => job.sent);
  if (!jobs.length) {
    clearInterval(timer);
    timer = null;
    return;
  }
  const found = sent.length ? await places(sent.map((job) => job.ticket)).catch(() => ({})) : {};
  for (const job of sent) {
    const { place = job.place, left = job.left, progress = job.progress } = found[job.ticket] ?? {};
    if (place === 0) job.began ??= performance.now();
    Object.assign(job, { place, left, progress, at: performance.now() });
  }
  showAll();
}

function showAll() {
  const now = performance.now();
  let last = Math.max(0, ...jobs.map((job) => (job.sent && job.place) || 0));
  for (const job of jobs) show(job, now, job.sent ? job.place : ++last);
  find("#pictures").setAttribute("aria-busy", String(jobs.length > 0));
}

function show(job, now, place) {
  const left = job.left === null ? null : Math.max(0, job.left - (now - job.at) / 1000);
  const where = !job.sent && job.notBefore > now ? t("queue_full", { time: seconds((job.notBefore - now) / 1000) })
    : place === null ? t("sending") : place === 0 ? t("running") : t("queue_place", { place });
  const told = [where, t("elapsed", { time: seconds((now - job.since) / 1000) })];
  if (left !== null && left >= 1) told.push(t("left", { time: seconds(left) }));
  job.text.textContent = told.join(" · ");
  const running = job.began === null ? 0 : (now - job.began) / 1000;
  const part = left !== null && job.began !== null ? running / (running + left || 1) : job.progress;
  if (part > 0 || place !== 0) job.bar.value = Math.min(1, part);
  else job.bar.removeAttribute("value");
}

whenSpoken(showAll);
export const busy = () => jobs.length > 0 || every(".job").length > 0;
