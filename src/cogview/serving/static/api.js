// Talking to the server: JSON, forms, and server-sent events that answer a post.

export class Refused extends Error {
  constructor(status, told, retryAfter) {
    super(told?.message ?? `HTTP ${status}`);
    Object.assign(this, { status, code: told?.code ?? null, retryAfter });
  }
}

const KEY = "cogview-key";
export const remember = (key) => sessionStorage.setItem(KEY, key);

async function send(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const reply = await fetch(path, { ...options, headers });
  if (reply.ok) return reply;
  const told = await reply.json().catch(() => null);
  throw new Refused(reply.status, told?.error, Number(reply.headers.get("retry-after") ?? 0));
}

export const models = async () => (await (await send("/v1/models")).json()).data;

export async function* draw(body, signal) {
  const headers = { "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify({ ...body, stream: true, partial_images: 3 }), signal };
  const reply = await send("/v1/images/generations", options);
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

export async function form(path, fields, files, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value !== null && value !== "") body.append(name, value);
  for (const [name, file] of Object.entries(files)) body.append(name, file, `${name}.png`);
  return (await send(path, { method: "POST", body, signal })).json();
}

export function blobOf(base64, type = "image/png") {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}
