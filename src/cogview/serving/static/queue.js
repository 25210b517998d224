// The queue of this page's requests: shows the position and the time of each, and cancels them individually.

import { queuePositions } from "./api.js";
import { button, find, findAll, make, onLanguageChange, seconds, t } from "./page.js";

const MAX_SENT = 3; // concurrent requests, as browsers open at most six connections to a server; the rest wait here
const jobs = [];
let timer = null;

// Runs work({signal, ticket}) when its turn comes. Returns {line: an element that shows its progress, done: a promise of its result}.
export function enqueue(title, work) {
  const job = { work, ticket: crypto.randomUUID(), controller: new AbortController(), enqueuedAt: performance.now() };
  Object.assign(job, { sent: false, position: null, secondsLeft: null, progress: 0, startedAt: null, retryAt: 0 });
  job.bar = make("progress", { max: 1, aria: { hidden: "true" } });
  job.text = make("span", { className: "told" });
  const cancelButton = button("cancel", () => cancelJob(job), "button second stop");
  cancelButton.setAttribute("aria-describedby", (job.text.id = `job-${job.ticket}`));
  cancelButton.title = title;
  job.line = make("div", { className: "job" }, job.bar, job.text, cancelButton);
  job.done = new Promise((resolve, reject) => Object.assign(job, { resolve, reject }));
  jobs.push(job);
  sendWaiting();
  return job;
}

function cancelJob(job) {
  job.controller.abort();
  if (job.sent) return;
  removeJob(job);
  job.reject(new DOMException("", "AbortError"));
}

function sendWaiting() {
  const now = performance.now();
  for (const job of jobs) {
    if (jobs.filter((other) => other.sent).length >= MAX_SENT) break;
    if (!job.sent && job.retryAt <= now) sendJob(job);
  }
  timer ??= setInterval(poll, 1000);
  showJobs();
}

async function sendJob(job) {
  job.sent = true;
  try {
    job.resolve(await job.work({ signal: job.controller.signal, ticket: job.ticket }));
  } catch (error) {
    if (error.code === "queue_full" && !job.controller.signal.aborted) return retryLater(job, error.retryAfter || 5);
    job.reject(error);
  }
  return removeJob(job);
}

// The server's queue is full: sends the request again after the time that the server asks for.
function retryLater(job, wait) {
  Object.assign(job, { sent: false, position: null, secondsLeft: null, retryAt: performance.now() + 1000 * wait });
  setTimeout(sendWaiting, 1000 * wait + 50);
  showJobs();
}

function removeJob(job) {
  jobs.splice(jobs.indexOf(job), 1);
  job.line.remove();
  sendWaiting();
}

async function poll() {
  const sent = jobs.filter((job) => job.sent);
  if (!jobs.length) {
    clearInterval(timer);
    timer = null;
    return;
  }
  const tickets = sent.length ? await queuePositions(sent.map((job) => job.ticket)).catch(() => ({})) : {};
  for (const job of sent) {
    const { place: position = job.position, left: secondsLeft = job.secondsLeft, progress = job.progress } = tickets[job.ticket] ?? {};
    if (position === 0) job.startedAt ??= performance.now();
    Object.assign(job, { position, secondsLeft, progress, updatedAt: performance.now() });
  }
  showJobs();
}

function showJobs() {
  const now = performance.now();
  let last = Math.max(0, ...jobs.map((job) => (job.sent && job.position) || 0));
  for (const job of jobs) showJob(job, now, job.sent ? job.position : ++last);
  find("#pictures").setAttribute("aria-busy", String(jobs.length > 0));
}

function showJob(job, now, position) {
  const secondsLeft = job.secondsLeft === null ? null : Math.max(0, job.secondsLeft - (now - job.updatedAt) / 1000);
  const stateText = !job.sent && job.retryAt > now ? t("queue_full", { time: seconds((job.retryAt - now) / 1000) })
    : position === null ? t("sending") : position === 0 ? t("running") : t("queue_position", { position });
  const parts = [stateText, t("elapsed", { time: seconds((now - job.enqueuedAt) / 1000) })];
  if (secondsLeft !== null && secondsLeft >= 1) parts.push(t("left", { time: seconds(secondsLeft) }));
  job.text.textContent = parts.join(" · ");
  const running = job.startedAt === null ? 0 : (now - job.startedAt) / 1000;
  const fraction = secondsLeft !== null && job.startedAt !== null ? running / (running + secondsLeft || 1) : job.progress;
  if (fraction > 0 || position !== 0) job.bar.value = Math.min(1, fraction);
  else job.bar.removeAttribute("value");
}

onLanguageChange(showJobs);
export const busy = () => jobs.length > 0 || findAll(".job").length > 0;
