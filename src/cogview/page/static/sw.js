// Keeps the page for use without a connection, and asks the browser for threads: static hosts cannot send the headers
// that isolate a page. What is loaded only when it is needed (the runtime for this browser, the caption model) is kept
// when the page says that it was used.

const INDEX = "files.json", PREFIX = "cogview-";

async function keep() {
  const files = await (await fetch(INDEX, { cache: "no-store" })).json();
  const cache = await caches.open(files.version);
  await cache.addAll(files.keep.map((name) => new Request(name, { cache: "no-cache" })));
  for (const name of await caches.keys()) if (name.startsWith(PREFIX) && name !== files.version) await caches.delete(name);
}

async function keepMore(names) {
  const version = (await caches.keys()).find((name) => name.startsWith(PREFIX));
  if (!version) return;
  const cache = await caches.open(version);
  const missing = await Promise.all(names.map(async (name) => ((await cache.match(name)) ? [] : [name])));
  await cache.addAll(missing.flat());
}

async function answer(request) {
  const found = (await caches.match(request, { ignoreSearch: true })) ?? (await fetch(request));
  if (found.type === "opaque" || found.status === 0) return found;
  const headers = new Headers(found.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}

oninstall = (event) => event.waitUntil(keep().then(() => skipWaiting()));
onactivate = (event) => event.waitUntil(clients.claim());
onmessage = (event) => event.waitUntil(keepMore(event.data.keep));
onfetch = (event) => {
  if (event.request.method === "GET" && new URL(event.request.url).origin === location.origin) event.respondWith(answer(event.request));
};
