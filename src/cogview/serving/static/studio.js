// The studio's entry point. Text from users and servers is inserted as text, never as markup.

import { saveApiKey } from "./api.js";
import { deleteAllImages, search, setOnUnauthorized, showOlder, showStored } from "./gallery.js";
import { loadModels, wireGenerateForm } from "./models.js";
import { find, findAll, setLanguage, showError, t } from "./page.js";
import { wireTabs } from "./tabs.js";
import { wireTools } from "./tools.js";
import { loadTrainings, wireTraining } from "./train.js";
import { wireViewer } from "./viewer.js";

function askForApiKey() {
  const dialog = find("#key-dialog");
  if (!dialog.open) dialog.showModal();
}

async function loadServerState() {
  try {
    await loadModels();
    await loadTrainings();
  } catch (error) {
    if (error.status === 401) return askForApiKey();
    showError(find("#panel-draw .problem"), error);
  }
  return null;
}

function wirePage() {
  for (const area of findAll("textarea")) {
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
    });
  }
  for (const node of findAll("[data-language]")) node.addEventListener("click", () => setLanguage(node.dataset.language));
  find("#key-dialog form").addEventListener("submit", () => { saveApiKey(find("#key").value.trim()); loadServerState(); });
  find("#older").addEventListener("click", () => showOlder());
  find("#search").addEventListener("input", (event) => search(event.target.value));
  find("#forget").addEventListener("click", () => { if (confirm(t("delete_all_confirm"))) deleteAllImages(); });
  setOnUnauthorized(askForApiKey);
}

for (const wire of [wirePage, wireTabs, wireGenerateForm, wireTools, wireTraining, wireViewer]) wire();
setLanguage(localStorage.getItem("cogview-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
await loadServerState();
await showStored();
document.body.dataset.ready = "true";
