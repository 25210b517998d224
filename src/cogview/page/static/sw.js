// Caches the page for offline use, and adds the headers for cross-origin isolation, which threads need and static hosts
// cannot send. Files that are loaded on demand (the runtime for this browser, the caption model) are cached when the
// page reports that it used them.

const INDEX = "files.json", PREFIX = "cogview-";

async function cacheFiles() {
  const files = await (await fetch(INDEX, { cache: "no-store" })).json();
  const cache = await caches.open(files.version);
  await cache.addAll(files.keep.map((name) => new Request(name, { cache: "no-cache" })));
  for (const name of await caches.keys()) if (name.startsWith(PREFIX) && name !== files.version) await caches.delete(name);
}

async function cacheMore(names) {
  const version = (await caches.keys()).find((name) => name.startsWith(PREFIX));
  if (!version) return;
  const cache = await caches.open(version);
  const missing = await Promise.all(names.map(async (name) => ((await cache.match(name)) ? [] : [name])));
  await cache.addAll(missing.flat());
}

async function respond(request) {
  const response = (await caches.match(request, { ignoreSearch: true })) ?? (await fetch(request));
  if (response.type === "opaque" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

oninstall = (event) => event.waitUntil(cacheFiles().then(() => skipWaiting()));
onactivate = (event) => event.waitUntil(clients.claim());
onmessage = (event) => event.waitUntil(cacheMore(event.data.keep));
onfetch = (event) => {
  if (event.request.method === "GET" && new URL(event.request.url).origin === location.origin) event.respondWith(respond(event.request));
};
