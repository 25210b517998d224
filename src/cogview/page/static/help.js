// Unknown words of a prompt, and similar known ones. Mirrors cogview.checkpoints.prompt_help.

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

  /** [{ word, near }]: the unknown words for which there are suggestions, without duplicates. */
  unknown(prompt) {
    const entries = new Map();
    for (const [run] of prompt.toLowerCase().matchAll(RUN))
      for (const entry of HAN.test(run) ? this.chinese(run) : this.english(run)) if (!entries.has(entry.word)) entries.set(entry.word, entry);
    return [...entries.values()];
  }

  *english(run) {
    const words = run.split(" ");
    for (let start = 0; start < words.length; ) {
      const pair = words.slice(start, start + 2).join(" "), name = this.listedForm(pair) !== null ? pair : words[start];
      start += name.split(" ").length;
      const listedForm = this.listedForm(name), corrected = listedForm ?? this.corrected(name);
      let near = this.near(corrected, "en");
      if (!near.length && listedForm === null && corrected !== null) near = [corrected];
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

  /** The name or its singular, if it is listed, else null. */
  listedForm(name) {
    const singular = ([plural, end]) => (name.endsWith(plural) ? [name.slice(0, -plural.length) + end] : []);
    return [name, ...PLURALS.flatMap(singular)].find((candidate) => this.listed.en.has(candidate)) ?? null;
  }

  /** The listed word that is most similar to a misspelt one, or null. */
  corrected(word) {
    if (word.length <= SHORT) return null;
    for (let i = 1; i < word.length - 1; i++) {
      const swapped = word.slice(0, i) + word[i + 1] + word[i] + word.slice(i + 2);
      if (this.listed.en.has(swapped)) return swapped;
    }
    let best = null, bestSimilarity = SPELLING;
    for (const listed of this.listed.en) {
      if (listed[0] !== word[0]) continue;
      const upperBound = (2 * Math.min(word.length, listed.length)) / (word.length + listed.length);
      if (upperBound < bestSimilarity) continue;
      const score = similarity(listed, word);
      if (score > bestSimilarity || (score === bestSimilarity && (best === null || listed > best))) [best, bestSimilarity] = [listed, score];
    }
    return best;
  }

  near(word, language) {
    if (word === null || this.known[language].has(word)) return [];
    return (this.nearby[language].get(word) ?? []).map((key) => this.things[key][Number(language === "zh")]);
  }
}

/** The Ratcliff-Obershelp similarity: twice the number of letters in common blocks, over the number of all letters. */
function similarity(a, b) {
  const common = (a, b) => {
    let size = 0, startA = 0, startB = 0, previous = [];
    for (let i = 0; i < a.length; i++) {
      const current = [];
      for (let j = 0; j < b.length; j++) {
        if (a[i] !== b[j]) continue;
        current[j] = (previous[j - 1] ?? 0) + 1;
        if (current[j] > size) [size, startA, startB] = [current[j], i - current[j] + 1, j - current[j] + 1];
      }
      previous = current;
    }
    if (!size) return 0;
    return size + common(a.slice(0, startA), b.slice(0, startB)) + common(a.slice(startA + size), b.slice(startB + size));
  };
  return (2 * common(a, b)) / (a.length + b.length);
}

/** Replace a word of the prompt, and adapt the article before it. */
export function replaceWord(prompt, word, replacement) {
  if (HAN.test(word)) return prompt.replace(word, () => replacement);
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return prompt.replace(new RegExp(`(?:\\b(an?)(\\s+))?\\b${escaped}\\b`, "i"), (_, article, space) => {
    if (!article) return replacement;
    const newArticle = /^[aeiou]/i.test(replacement) ? "an" : "a";
    return `${article[0] === "A" ? `A${newArticle.slice(1)}` : newArticle}${space}${replacement}`;
  });
}
