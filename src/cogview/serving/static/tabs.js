// The tabs of tasks, and which one is open.

import { clearAllErrors, find, findAll, setStatus, state } from "./page.js";
import { busy } from "./queue.js";

const listeners = [];
export const onTabOpened = (listener) => listeners.push(listener);

export function openTab(name) {
  if (state.tab !== name) {
    clearAllErrors();
    if (!busy()) setStatus("");
  }
  state.tab = name;
  for (const tab of findAll("[role=tab]")) {
    const selected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    find(`#${tab.getAttribute("aria-controls")}`).hidden = !selected;
  }
  find("#pictures").hidden = name === "train";
  find("#trainings").hidden = name !== "train";
  for (const listener of listeners) listener(name);
}

export function wireTabs() {
  for (const tab of findAll("[role=tab]")) {
    tab.addEventListener("click", () => openTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const tabs = findAll("[role=tab]:not([hidden])");
      const target = { ArrowRight: tabs.indexOf(tab) + 1, ArrowLeft: tabs.indexOf(tab) - 1, Home: 0, End: -1 }[event.key];
      if (target === undefined) return;
      event.preventDefault();
      const next = tabs.at(target % tabs.length);
      openTab(next.id.slice(4));
      next.focus();
    });
  }
}
