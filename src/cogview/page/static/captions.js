// Captions and caption losses (CogView, section 3.2). Mirrors cogview.onnx.texts.

import { Rows, logitsOf } from "./rows.js";

/** Log-probabilities (Float64Array) of logits; tokens that `allowed` excludes get -Infinity. */
function logSoftmax(logits, allowed = null) {
  const values = Float64Array.from(logits, (x, i) => (allowed && !allowed[i] ? -Infinity : x));
  let max = -Infinity, sum = 0;
  for (const x of values) if (x > max) max = x;
  for (const x of values) sum += Math.exp(x - max);
  return values.map((x) => x - max - Math.log(sum));
}

export class Captions {
  /**
   * @param model { ort, session, head, files }: the sessions of a transformer and of its text head
   * @param layout `captions` of the manifest
   * @param text the text tokenizer
   */
  constructor(model, layout, text) {
    Object.assign(this, { model, layout, text });
  }

  /** The tokens [id, position] that precede the caption of an image's codes. */
  prompt(codes, language) {
    const { before, before_positions, code_positions, after, after_positions, two_way } = this.layout;
    const tokens = [
      ...before.map((id, i) => [id, before_positions[i]]),
      ...Array.from(codes, (id, i) => [id, code_positions[i]]),
      ...(after[language] ?? after[""]).map((id, i) => [id, after_positions[i]]),
    ];
    tokens.twoWay = two_way;
    return tokens;
  }

  /** For each column of the text head, whether a caption in a language may contain its token. */
  allowed(language) {
    const { first, end } = this.model.files.heads.text, allowed = new Uint8Array(end - first);
    for (const [start, stop] of this.layout.pieces[language]) allowed.fill(1, start, stop);
    if (this.layout.end !== null) allowed[this.layout.end - first] = 1;
    return allowed;
  }

  /** The `n` best captions of an image's codes by beam search of width `beams`, the best first: [{ text, score }]. */
  async beamSearch(codes, { n = 1, beams = 4, language = "" } = {}) {
    const { first } = this.model.files.heads.text, prompt = this.prompt(codes, language), { length, text_positions } = this.layout;
    const stop = this.layout.end === null ? -1 : this.layout.end - first, allowed = this.allowed(language);
    const atFirst = stop < 0 ? allowed : allowed.map((value, i) => (i === stop ? 0 : value)); // a caption has at least one token
    let rows = new Rows(this.model, [0], prompt.length + length - 1);
    let states = await rows.read([prompt]), last = prompt.length - 1;
    let live = [{ ids: [], total: 0 }], done = [];
    const best = (candidates) => candidates.sort((a, b) => b.score - a.score).slice(0, beams);
    for (let step = 0; step < length; step++) {
      const logits = await logitsOf(this.model, live.map((_, row) => states(row, last)));
      const scores = logits.map((row) => logSoftmax(row, step ? allowed : atFirst));
      const next = expandBeams(live, scores, stop, beams);
      done = best([...done, ...next.ended]);
      live = next.continued;
      if (step + 1 === length) done = best([...done, ...live.map((beam) => ({ ...beam, score: beam.total / beam.ids.length }))]);
      const reachable = Math.max(...live.map((beam) => beam.total)) / length;
      if (step + 1 === length || !live.length || (done.length === beams && reachable <= done.at(-1).score)) break;
      rows = rows.select(next.parents);
      states = await rows.read(live.map((beam) => [[beam.ids.at(-1) + first, text_positions[step]]]));
      last = 0;
    }
    return done.slice(0, n).map(({ ids, score }) => ({ text: this.text.decode(ids).trim(), score }));
  }

  /** The caption loss of a text for an image's codes: the mean of -log p over its tokens, in nats. */
  async loss(codes, text) {
    const { text_first, text_positions, text_limit, after } = this.layout, { first } = this.model.files.heads.text;
    const ids = this.text.encode(text.trim()), language = /\p{Script=Han}/u.test(text) ? "zh" : "en";
    if (!ids.length || ids.length > text_limit) throw new Error(`the text has ${ids.length} tokens and the model reads ${text_limit}`);
    const prompt = this.prompt(codes, language in after ? language : ""), start = prompt.length;
    const tokens = [...prompt, ...ids.slice(0, -1).map((id, i) => [id + text_first, text_positions[i]])];
    tokens.twoWay = prompt.twoWay;
    const states = await new Rows(this.model, [0], tokens.length).read([tokens]);
    const logits = await logitsOf(this.model, ids.map((_, i) => states(0, start - 1 + i)));
    return -ids.reduce((sum, id, i) => sum + logSoftmax(logits[i])[id + text_first - first], 0) / ids.length;
  }
}

/** One step of beam search: the continued beams with their parents' indices, and the ended beams. */
function expandBeams(live, scores, stop, beams) {
  const candidates = [];
  live.forEach((beam, parent) => scores[parent].forEach((score, token) => score > -Infinity && candidates.push([beam.total + score, parent, token])));
  candidates.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
  const parents = [], continued = [], ended = [];
  for (const [total, parent, token] of candidates.slice(0, 2 * beams)) {
    if (continued.length === beams) break;
    const ids = live[parent].ids;
    if (token === stop) ended.push({ ids, total, score: total / (ids.length + 1) });
    else {
      continued.push({ ids: [...ids, token], total });
      parents.push(parent);
    }
  }
  return { parents, continued, ended };
}
