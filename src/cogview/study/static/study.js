// Progressive enhancement of pages that also work without scripts: answers are sent in the background and retried
// while the server is unreachable; drafts survive a closed tab; digit keys select scores.
"use strict";
(() => {
  const form = document.querySelector("form[data-save]");
  if (!form) return;
  const notice = document.getElementById("notice");
  const button = form.querySelector("button[type=submit]");
  const draft = "draft " + location.pathname;
  const memory = {
    get: () => { try { return JSON.parse(localStorage.getItem(draft)) || {}; } catch { return {}; } },
    set: (values) => { try { localStorage.setItem(draft, JSON.stringify(values)); } catch { /* private mode */ } },
    drop: () => { try { localStorage.removeItem(draft); } catch { /* private mode */ } },
  };
  const values = () => Object.fromEntries(new FormData(form));
  const tell = (text) => { notice.textContent = text; notice.hidden = !text; };

  for (const [name, value] of Object.entries(memory.get())) {
    const field = [...form.elements].find((input) => input.name === name && input.value === value);
    if (field) field.checked = true;
  }
  form.addEventListener("change", () => memory.set(values()));

  let sending = false;
  async function send(tries) {
    let answer;
    try {
      answer = await fetch(form.action, {
        method: "POST", headers: { Accept: "application/json" }, body: new URLSearchParams(new FormData(form)),
      });
    } catch { answer = null; }
    if (answer && answer.ok) {
      const { next } = await answer.json();
      memory.drop();
      location.assign(next);
    } else if (!answer || answer.status >= 500) {
      tell(document.body.dataset.offline);
      setTimeout(() => send(tries + 1), Math.min(1000 * 1.5 ** tries, 15000));
    } else {
      form.submit(); // the server's page shows the problem
    }
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (sending) return;
    sending = true;
    button.disabled = true;
    form.setAttribute("aria-busy", "true");
    setTimeout(() => { if (notice.hidden) tell(document.body.dataset.saving); }, 800);
    send(0);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !/^[0-9]$/.test(event.key)) return;
    const scales = [...form.querySelectorAll("fieldset[data-scale]")];
    const focused = scales.find((scale) => scale.contains(document.activeElement) && document.activeElement.matches(":focus-visible"));
    const scale = focused || scales.find((scale) => !scale.querySelector(":checked"));
    if (!scale) return;
    const wanted = event.key === "0" ? "10" : event.key;
    const field = [...scale.querySelectorAll("input")].find((input) => input.value === wanted);
    if (!field) return;
    field.checked = true;
    field.dispatchEvent(new Event("change", { bubbles: true }));
    const left = scales.find((other) => !other.querySelector(":checked"));
    (left ? left.querySelector("input") : button).focus({ focusVisible: true });
    event.preventDefault();
  });
})();
