// The gallery's images, stored in this browser's IndexedDB: {id, group, time, kind, prompt, ..., blob}.

const NAME = "cogview-studio";
const MAX_IMAGES = 300;

const resultOf = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

let database = null;
function openDatabase() {
  if (database) return database;
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
  database = resultOf(request);
  return database;
}

async function objectStore(mode) {
  return (await openDatabase()).transaction("pictures", mode).objectStore("pictures");
}

export const all = async () => resultOf((await objectStore("readonly")).getAll());
export const remove = async (id) => resultOf((await objectStore("readwrite")).delete(id));
export const clear = async () => resultOf((await objectStore("readwrite")).clear());

export async function add(image) {
  const images = await objectStore("readwrite");
  const id = await resultOf(images.add(image));
  const keys = await resultOf(images.getAllKeys());
  for (const old of keys.slice(0, Math.max(0, keys.length - MAX_IMAGES))) images.delete(old);
  return id;
}
