// Words of a prompt that a model never learnt, and things near them: as cogview.checkpoints.prompt_help, which makes the table.

const SPELLING = 0.86, SHORT = 4, LONGEST = 6;
const WORD = "[a-z]+(?:['’-][a-z]+)*", HAN = /[\u4e00-\u9fff]/;
const RUN = new RegExp(`${WORD}(?: ${WORD})*|[\u4e00-\u9fff]+`, "g");
const PLURALS = [["ies", "y"], ["ves", "f"], ["es", ""], ["s", ""]];

export class PromptHelp {
  /** @param words the contents of words.json */
  constructor({ things, known, near }) {
    this.things = things;
    this.known = Object.fromEntries(Object.entries(known).map(([language, words]) => [language, new Set(words)]));
    this.nearby = Object.fromEntries(Object.entries(near).map(([language, words]) => [language, new Map(Object.entries(words))]));
    const listed = (language) => new Set([...this.known[language], ...this.nearby[language].keys()]);
    this.listed = { en: listed("en"), zh: listed("zh") };
  }

  /** [{ word, near }]: the words that were never learnt and something near is known for, each once. */
  unknown(prompt) {
    const found = new Map();
    for (const [run] of prompt.toLowerCase().matchAll(RUN))
      for (const one of HAN.test(run) ? this.chinese(run) : this.english(run)) if (!found.has(one.word)) found.set(one.word, one);
    return [...found.values()];
  }

  *english(run) {
    const words = run.split(" ");
    for (let start = 0; start < words.length; ) {
      const pair = words.slice(start, start + 2).join(" "), name = this.form(pair) !== null ? pair : words[start];
      start += name.split(" ").length;
      const form = this.form(name), meant = form ?? this.respelt(name);
      let near = this.near(meant, "en");
      if (!near.length && form === null && meant !== null) near = [meant];
      if (near.length) yield { word: name, near };
    }
  }

  *chinese(run) {
    for (let start = 0; start < run.length; ) {
      let name = run[start];
      for (let end = Math.min(run.length, start + LONGEST); end > start; end--) {
        if (!this.listed.zh.has(run.slice(start, end))) continue;
        name = run.slice(start, end);
        break;
      }
      start += name.length;
      const near = this.near(name, "zh");
      if (near.length) yield { word: name, near };
    }
  }

  /** A name or its singular as it is listed; null. */
  form(name) {
    const singular = ([plural, end]) => (name.endsWith(plural) ? [name.slice(0, -plural.length) + end] : []);
    return [name, ...PLURALS.flatMap(singular)].find((form) => this.listed.en.has(form)) ?? null;
  }

  /** The listed word that a misspelt one is most like; null. */
  respelt(word) {
    if (word.length <= SHORT) return null;
    for (let i = 1; i < word.length - 1; i++) {
      const swapped = word.slice(0, i) + word[i + 1] + word[i] + word.slice(i + 2);
      if (this.listed.en.has(swapped)) return swapped;
    }
    let best = null, most = SPELLING;
    for (const listed of this.listed.en) {
      if (listed[0] !== word[0]) continue;
      const most_alike = (2 * Math.min(word.length, listed.length)) / (word.length + listed.length);
      if (most_alike < most) continue;
      const alike = likeness(listed, word);
      if (alike > most || (alike === most && (best === null || listed > best))) [best, most] = [listed, alike];
    }
    return best;
  }

  near(word, language) {
    if (word === null || this.known[language].has(word)) return [];
    return (this.nearby[language].get(word) ?? []).map((key) => this.things[key][Number(language === "zh")]);
  }
}

/** Twice the letters in common blocks, by the longest first, as a share of all letters (Ratcliff and Obershelp). */
function likeness(a, b) {
  const common = (a, b) => {
    let size = 0, atA = 0, atB = 0, before = [];
    for (let i = 0; i < a.length; i++) {
      const now = [];
      for (let j = 0; j < b.length; j++) {
        if (a[i] !== b[j]) continue;
        now[j] = (before[j - 1] ?? 0) + 1;
        if (now[j] > size) [size, atA, atB] = [now[j], i - now[j] + 1, j - now[j] + 1];
      }
      before = now;
    }
    if (!size) return 0;
    return size + common(a.slice(0, atA), b.slice(0, atB)) + common(a.slice(atA + size), b.slice(atB + size));
  };
  return (2 * common(a, b)) / (a.length + b.length);
}

/** The prompt with another word, and the article that goes with it. */
export function replaced(prompt, word, other) {
  if (HAN.test(word)) return prompt.replace(word, () => other);
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return prompt.replace(new RegExp(`(?:\\b(an?)(\\s+))?\\b${escaped}\\b`, "i"), (_, article, space) => {
    if (!article) return other;
    const fitting = /^[aeiou]/i.test(other) ? "an" : "a";
    return `${article[0] === "A" ? `A${fitting.slice(1)}` : fitting}${space}${other}`;
  });
}
