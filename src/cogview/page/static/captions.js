// Captions and caption losses (CogView, section 3.2), as cogview.onnx.texts.

import { Rows, logitsOf } from "./rows.js";

/** Log-probabilities (Float64Array) of logits, those where `allowed` is false left out. */
function logSoftmax(logits, allowed = null) {
  const found = Float64Array.from(logits, (x, i) => (allowed && !allowed[i] ? -Infinity : x));
  let most = -Infinity, sum = 0;
  for (const x of found) if (x > most) most = x;
  for (const x of found) sum += Math.exp(x - most);
  return found.map((x) => x - most - Math.log(sum));
}

export class Captions {
  /**
   * @param model { ort, session, head, files }: an opened transformer with its text head
   * @param layout `captions` of the manifest
   * @param text the text tokenizer
   */
  constructor(model, layout, text) {
    Object.assign(this, { model, layout, text });
  }

  /** What is read before a caption of codes: tokens [id, position]. */
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

  /** bool of each column of the text head: what a caption in a language consists of. */
  allowed(language) {
    const { first, end } = this.model.files.heads.text, allowed = new Uint8Array(end - first);
    for (const [start, stop] of this.layout.pieces[language]) allowed.fill(1, start, stop);
    if (this.layout.end !== null) allowed[this.layout.end - first] = 1;
    return allowed;
  }

  /** The `n` likeliest captions of an image's codes, the best first: [{ text, score }], found by following `beams`. */
  async likeliest(codes, { n = 1, beams = 4, language = "" } = {}) {
    const { first } = this.model.files.heads.text, prompt = this.prompt(codes, language), { length, text_positions } = this.layout;
    const stop = this.layout.end === null ? -1 : this.layout.end - first, allowed = this.allowed(language);
    const atFirst = stop < 0 ? allowed : allowed.map((one, i) => (i === stop ? 0 : one)); // a caption has one token at least
    let rows = new Rows(this.model, [0], prompt.length + length - 1);
    let states = await rows.read([prompt]), last = prompt.length - 1;
    let live = [{ ids: [], total: 0 }], done = [];
    const best = (found) => found.sort((a, b) => b.score - a.score).slice(0, beams);
    for (let step = 0; step < length; step++) {
      const logits = await logitsOf(this.model, live.map((_, row) => states(row, last)));
      const scores = logits.map((one) => logSoftmax(one, step ? allowed : atFirst));
      const next = extended(live, scores, stop, beams);
      done = best([...done, ...next.ended]);
      live = next.going;
      if (step + 1 === length) done = best([...done, ...live.map((one) => ({ ...one, score: one.total / one.ids.length }))]);
      const reachable = Math.max(...live.map((one) => one.total)) / length;
      if (step + 1 === length || !live.length || (done.length === beams && reachable <= done.at(-1).score)) break;
      rows = rows.select(next.parents);
      states = await rows.read(live.map((one) => [[one.ids.at(-1) + first, text_positions[step]]]));
      last = 0;
    }
    return done.slice(0, n).map(({ ids, score }) => ({ text: this.text.decode(ids).trim(), score }));
  }

  /** How badly a text describes an image of codes: nats a token. */
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

/** The best continuations of texts: those that go on with their parents, and those that ended. */
function extended(live, scores, stop, beams) {
  const all = [];
  live.forEach((one, parent) => scores[parent].forEach((score, token) => score > -Infinity && all.push([one.total + score, parent, token])));
  all.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
  const parents = [], going = [], ended = [];
  for (const [total, parent, token] of all.slice(0, 2 * beams)) {
    if (going.length === beams) break;
    const ids = live[parent].ids;
    if (token === stop) ended.push({ ids, total, score: total / (ids.length + 1) });
    else {
      going.push({ ids: [...ids, token], total });
      parents.push(parent);
    }
  }
  return { parents, going, ended };
}
