// HTTP requests to the server: JSON, forms, and responses that are streams of server-sent events.

export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message ?? `HTTP ${status}`);
    Object.assign(this, { status, code: error?.code ?? null, param: error?.param ?? null, retryAfter });
  }
}

const STORAGE_KEY = "cogview-key";
const TICKET_HEADER = "X-Cogview-Ticket";
export const saveApiKey = (key) => sessionStorage.setItem(STORAGE_KEY, key);

async function send(path, { ticket, ...options } = {}) {
  const key = sessionStorage.getItem(STORAGE_KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(ticket ? { [TICKET_HEADER]: ticket } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body?.error, Number(response.headers.get("retry-after") ?? 0));
}

export const getJson = async (path, signal) => (await send(path, { signal })).json();
export const getBlob = async (path) => (await send(path)).blob();
export const listModels = async () => (await getJson("/v1/models")).data;
export const queuePositions = async (tickets) => (await getJson(`/v1/queue?${new URLSearchParams(tickets.map((ticket) => ["ticket", ticket]))}`)).tickets;

export async function post(path, body = {}, { method = "POST", ...options } = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await send(path, { method, headers, body: JSON.stringify(body), ...options })).json();
}

export async function* streamGeneration(body, options) {
  const headers = { "Content-Type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify({ ...body, stream: true, partial_images: 3 }), ...options };
  const response = await send("/v1/images/generations", request);
  const ignored = response.headers.get("x-cogview-ignored");
  if (ignored) yield { type: "ignored", names: ignored };
  for await (const event of events(response.body)) {
    if (event.type === "error") throw new ApiError(response.status, event.error, 0);
    yield event;
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const data = buffer.slice(0, end).split("\n").filter((line) => line.startsWith("data: "));
      buffer = buffer.slice(end + 2);
      if (data.length) yield JSON.parse(data.map((line) => line.slice(6)).join("\n"));
    }
  }
}

// fields: name to value or list of values; files: name to blob, or a list of [field name, blob, file name].
export async function postForm(path, fields, files, options) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const item of [value].flat()) if (item !== null && item !== undefined && item !== "") body.append(name, item);
  }
  const parts = Array.isArray(files) ? files : Object.entries(files).map(([name, blob]) => [name, blob, `${name}.png`]);
  for (const part of parts) body.append(...part);
  return (await send(path, { method: "POST", body, ...options })).json();
}

export function decodeBlob(base64, type = "image/png") {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type });
}
