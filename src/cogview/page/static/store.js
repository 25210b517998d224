// The gallery: images that stay in this browser (IndexedDB). Private windows may have none: the page works without.

const opened = new Promise((resolve) => {
  const asked = indexedDB.open("cogview-page", 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore("images", { autoIncrement: true });
  asked.onsuccess = () => resolve(asked.result);
  asked.onerror = () => resolve(null);
});

async function ask(action, ...values) {
  const database = await opened;
  if (!database) return null;
  return new Promise((resolve) => {
    const mode = action.startsWith("getAll") ? "readonly" : "readwrite";
    const asked = database.transaction("images", mode).objectStore("images")[action](...values);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => resolve(null);
  });
}

/** Keep an image { prompt, name, blob, codes }; its key. */
export const add = (image) => ask("add", image);
export const remove = (key) => (key === null ? null : ask("delete", key));
export const clear = () => ask("clear");

/** [key, image] of all, the oldest first. */
export async function all() {
  const [keys, images] = [await ask("getAllKeys"), await ask("getAll")];
  return (keys ?? []).map((key, i) => [key, images[i]]);
}
