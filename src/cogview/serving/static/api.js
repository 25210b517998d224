// Talking to the server: JSON, forms, and server-sent events that answer a post.

export class Refused extends Error {
  constructor(status, told, retryAfter) {
    super(told?.message ?? `HTTP ${status}`);
    Object.assign(this, { status, code: told?.code ?? null, param: told?.param ?? null, retryAfter });
  }
}

const KEY = "cogview-key";
const TICKET = "X-Cogview-Ticket";
export const remember = (key) => sessionStorage.setItem(KEY, key);

async function send(path, { ticket, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(ticket ? { [TICKET]: ticket } : {}) };
  const reply = await fetch(path, { ...options, headers });
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => null);
  throw new Refused(reply.status, told?.error, Number(reply.headers.get("retry-after") ?? 0));
}

export const get = async (path, signal) => (await send(path, { signal })).json();
export const file = async (path) => (await send(path)).blob();
export const models = async () => (await get("/v1/models")).data;
export const places = async (tickets) => (await get(`/v1/queue?${new URLSearchParams(tickets.map((one) => ["ticket", one]))}`)).tickets;

export async function post(path, body = {}, { method = "POST", ...options } = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await send(path, { method, headers, body: JSON.stringify(body), ...options })).json();
}

export async function* draw(body, options) {
  const headers = { "Content-Type": "application/json" };
  const asked = { method: "POST", headers, body: JSON.stringify({ ...body, stream: true, partial_images: 3 }), ...options };
  const reply = await send("/v1/images/generations", asked);
  const ignored = reply.headers.get("x-cogview-ignored");
  if (ignored) yield { type: "ignored", names: ignored };
  for await (const event of events(reply.body)) {
    if (event.type === "error") throw new Refused(reply.status, event.error, 0);
    yield event;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    kept += value;
    for (let end = kept.indexOf("\n\n"); end >= 0; end = kept.indexOf("\n\n")) {
      const data = kept.slice(0, end).split("\n").filter((line) => line.startsWith("data: "));
      kept = kept.slice(end + 2);
      if (data.length) yield JSON.parse(data.map((line) => line.slice(6)).join("\n"));
    }
  }
}

// fields: name to value, or to several; files: name to blob, or a list of [name in the form, blob, its name].
export async function form(path, fields, files, options) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") body.append(name, one);
  }
  const parts = Array.isArray(files) ? files : Object.entries(files).map(([name, blob]) => [name, blob, `${name}.png`]);
  for (const part of parts) body.append(...part);
  return (await send(path, { method: "POST", body, ...options })).json();
}

export function blobOf(base64, type = "image/png") {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}
