// The pictures of this browser, kept in IndexedDB: {id, group, time, kind, prompt, ..., blob}. Nothing leaves it.

const NAME = "cogview-studio";
const MOST = 300;

const finished = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let opened = null;
function open() {
  if (opened) return opened;
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
  opened = finished(request);
  return opened;
}

async function pictures(mode) {
  return (await open()).transaction("pictures", mode).objectStore("pictures");
}

export const all = async () => finished((await pictures("readonly")).getAll());
export const remove = async (id) => finished((await pictures("readwrite")).delete(id));
export const clear = async () => finished((await pictures("readwrite")).clear());

export async function add(picture) {
  const place = await pictures("readwrite");
  const id = await finished(place.add(picture));
  const keys = await finished(place.getAllKeys());
  for (const old of keys.slice(0, Math.max(0, keys.length - MOST))) place.delete(old);
  return id;
}
