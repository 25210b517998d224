// Which task is open.

import { calmAll, every, find, say, state } from "./page.js";
import { busy } from "./queue.js";

const listeners = [];
export const whenOpened = (listener) => listeners.push(listener);

export function openTab(name) {
  if (state.tab !== name) {
    calmAll();
    if (!busy()) say("");
  }
  state.tab = name;
  for (const tab of every("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    find(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
  }
  find("#pictures").hidden = name === "train";
  find("#trainings").hidden = name !== "train";
  for (const listener of listeners) listener(name);
}

export function wireTabs() {
  for (const tab of every("[role=tab]")) {
    tab.addEventListener("click", () => openTab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const tabs = every("[role=tab]:not([hidden])");
      const to = { ArrowRight: tabs.indexOf(tab) + 1, ArrowLeft: tabs.indexOf(tab) - 1, Home: 0, End: -1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs.at(to % tabs.length);
      openTab(next.id.slice(4));
      next.focus();
    });
  }
}
