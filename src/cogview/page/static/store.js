// The gallery's images in IndexedDB. Private windows may have no IndexedDB: the page works without it.

const database = new Promise((resolve) => {
  const request = indexedDB.open("cogview-page", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("images", { autoIncrement: true });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => resolve(null);
});

async function runRequest(action, ...values) {
  const db = await database;
  if (!db) return null;
  return new Promise((resolve) => {
    const mode = action.startsWith("getAll") ? "readonly" : "readwrite";
    const request = db.transaction("images", mode).objectStore("images")[action](...values);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
}

/** Store an image { prompt, name, blob, codes }; resolves to its key. */
export const add = (image) => runRequest("add", image);
export const remove = (key) => (key === null ? null : runRequest("delete", key));
export const clear = () => runRequest("clear");

/** All images as [key, image], the oldest first. */
export async function all() {
  const [keys, images] = [await runRequest("getAllKeys"), await runRequest("getAll")];
  return (keys ?? []).map((key, i) => [key, images[i]]);
}
