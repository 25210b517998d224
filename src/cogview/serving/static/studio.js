// The studio. All text from people and servers goes into the page as text, never as markup.

import { remember } from "./api.js";
import { forgetAll, search, showKept, showOlder, whenKeyMissing } from "./gallery.js";
import { loadModels, wireGenerating } from "./models.js";
import { complain, every, find, speak, t } from "./page.js";
import { wireTabs } from "./tabs.js";
import { wireTools } from "./tools.js";
import { loadTrainings, wireTraining } from "./train.js";
import { wireViewer } from "./viewer.js";

function askForKey() {
  const dialog = find("#key-dialog");
  if (!dialog.open) dialog.showModal();
}

async function begin() {
  try {
    await loadModels();
    await loadTrainings();
  } catch (error) {
    if (error.status === 401) return askForKey();
    complain(find("#panel-draw .problem"), error);
  }
  return null;
}

function wirePage() {
  for (const area of every("textarea")) {
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form.requestSubmit();
    });
  }
  for (const node of every("[data-language]")) node.addEventListener("click", () => speak(node.dataset.language));
  find("#key-dialog form").addEventListener("submit", () => { remember(find("#key").value.trim()); begin(); });
  find("#older").addEventListener("click", () => showOlder());
  find("#search").addEventListener("input", (event) => search(event.target.value));
  find("#forget").addEventListener("click", () => { if (confirm(t("forget_sure"))) forgetAll(); });
  whenKeyMissing(askForKey);
}

for (const wire of [wirePage, wireTabs, wireGenerating, wireTools, wireTraining, wireViewer]) wire();
speak(localStorage.getItem("cogview-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
await begin();
await showKept();
document.body.dataset.ready = "true";
