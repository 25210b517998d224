// An exported family in the browser: generates images with onnxruntime-web, row by row.
//
// The same decoding as cogview.onnx: prompts are read once, guesses of a Jacobi window are read together and each
// sampled with its own noise, so a seed gives the image that it gives in Python (up to rounding).

import { guide, sample, Stream } from "./draws.js";
import { TextTokenizer } from "./text.js";

const WINDOW = 4; // tokens sampled in one forward; in WebAssembly longer windows cost more than they save
const HIDDEN = -Infinity;

/** One image's rows of a transformer: with guidance its own and that of the negative prompt. */
class Rows {
  constructor(model, prompts, capacity, bias) {
    const { attention_heads: heads, head_dim: width, layers } = model.files, rows = prompts.length;
    Object.assign(this, { model, rows, capacity, heads, width, bias });
    this.biased = prompts.map((one) => (bias ? one.biased : 0)); // tokens of each row's text
    this.lengths = new Int32Array(rows);
    this.caches = [];
    for (let i = 0; i < 2 * layers; i++) this.caches.push(new Float32Array(rows * heads * capacity * width));
  }

  /** Read tokens (of each row an array of [id, position]); the states after each. */
  async read(tokens) {
    const { model, rows, capacity, heads, width } = this, { ort, session, files } = model;
    const longest = Math.max(...tokens.map((row) => row.length)), all = capacity + longest;
    const ids = new Int32Array(rows * longest), positions = new Int32Array(rows * longest);
    const mask = new Float32Array(rows * longest * all);
    tokens.forEach((row, r) => {
      row.forEach(([id, position], i) => ((ids[r * longest + i] = id), (positions[r * longest + i] = position)));
      for (let i = 0; i < longest; i++) {
        const line = mask.subarray((r * longest + i) * all, (r * longest + i + 1) * all);
        line.fill(this.bias, 0, Math.min(this.biased[r], this.lengths[r]));
        line.fill(HIDDEN, this.lengths[r], capacity);
        if (this.biased[r] > this.lengths[r]) line.fill(this.bias, capacity, capacity + this.biased[r] - this.lengths[r]);
        line.fill(HIDDEN, capacity + Math.max(i + 1, row.twoWay ?? 0));
      }
    });
    const feed = {
      ids: new ort.Tensor("int32", ids, [rows, longest]),
      positions: new ort.Tensor("int32", positions, [rows, longest]),
      mask: new ort.Tensor("float32", mask, [rows, longest, all]),
    };
    for (let layer = 0; layer < files.layers; layer++) {
      feed[`keys.${layer}`] = new ort.Tensor("float32", this.caches[2 * layer], [rows, heads, width, capacity]);
      feed[`values.${layer}`] = new ort.Tensor("float32", this.caches[2 * layer + 1], [rows, heads, capacity, width]);
    }
    const found = await session.run(feed);
    for (let layer = 0; layer < files.layers; layer++) {
      this.store(this.caches[2 * layer], found[`new_keys.${layer}`].data, tokens, longest, true);
      this.store(this.caches[2 * layer + 1], found[`new_values.${layer}`].data, tokens, longest, false);
    }
    tokens.forEach((row, r) => (this.lengths[r] += row.length));
    const hidden = found.hidden.data;
    return (row, token) => hidden.subarray((row * longest + token) * files.hidden, (row * longest + token + 1) * files.hidden);
  }

  store(cache, values, tokens, longest, keys) {
    const { heads, width, capacity } = this;
    tokens.forEach((row, r) => {
      const start = this.lengths[r], count = row.length;
      for (let head = r * heads; head < (r + 1) * heads; head++) {
        if (!keys) {
          const from = head * longest * width;
          cache.set(values.subarray(from, from + count * width), (head * capacity + start) * width);
        } else {
          for (let d = head * width; d < (head + 1) * width; d++)
            cache.set(values.subarray(d * longest, d * longest + count), d * capacity + start);
        }
      }
    });
  }
}

export class Model {
  /**
   * @param ort the module onnxruntime-web
   * @param {(name: string) => Promise<Uint8Array>} load the bytes of a file of the exported folder
   * @param options of sessions: executionProviders and the like
   */
  static async open(ort, load, options = {}) {
    const model = new Model();
    model.manifest = JSON.parse(new TextDecoder().decode(await load("manifest.json")));
    if (model.manifest.kind !== "cogview-onnx" || model.manifest.format !== 1) throw new Error("no exported model");
    const { transformers, image, text } = model.manifest;
    model.files = transformers.base;
    const open = async (graph, weights) => {
      const path = weights.split("/").pop();
      const externalData = [{ path, data: await load(weights) }];
      return ort.InferenceSession.create(await load(graph), { externalData, ...options });
    };
    model.ort = ort;
    model.text = new TextTokenizer(await load(text));
    model.session = await open(model.files.graph, model.files.weights);
    model.head = await open(model.files.heads.image.graph, model.files.weights);
    model.decoder = await open(image.decoder, image.decoder.replace(/onnx$/, "bin"));
    return model;
  }

  /** What the model reads for a prompt, a style in the prompt's language; an Error says what is wrong. */
  caption(prompt, style = null) {
    const { styles, templates } = this.manifest.family, words = prompt.trim();
    if (!words) throw new Error("the prompt is empty; say what to draw");
    if (style === null) return words;
    const language = /\p{Script=Han}/u.test(words) ? "zh" : "en", phrase = styles[style]?.[language];
    if (phrase === undefined) throw new Error(`no style ${style} in the prompt's language`);
    return templates[language].replace("{style}", phrase).replace("{caption}", words);
  }

  /** The prompt of a caption: tokens [id, position] and the positions of the image's codes. */
  prompt(caption) {
    const layout = this.manifest.prompt, text = this.text.encode(caption), moved = layout.shift * text.length;
    if (text.length > layout.text_limit)
      throw new Error(`the prompt has ${text.length} tokens and the model reads ${layout.text_limit}; shorten it`);
    const tokens = [
      ...layout.before.map((id, i) => [id, layout.before_positions[i]]),
      ...text.map((piece, i) => [layout.text_first + piece, layout.text_position + i]),
      ...layout.after.map((id, i) => [id, layout.after_positions[i] + moved]),
    ];
    tokens.twoWay = layout.two_way === null ? 0 : layout.two_way + text.length;
    const positions = layout.code_positions.map((position) => position + moved);
    return { tokens, positions, biased: layout.biased + text.length };
  }

  /**
   * The codes of one image.
   *
   * @param params over the family's defaults: temperature, top_k, top_p, guidance
   * @param onStep called with the codes and how many are known after each forward; what it throws ends the generation
   */
  async generate(prompt, { seed = 0, index = 0, style = null, negative = "", params = {}, jacobi = true, onStep = null } = {}) {
    const { family } = this.manifest;
    const settings = { ...family.defaults, ...given(family.style_defaults[style] ?? {}), ...given(params) };
    const guided = settings.guidance !== 1, own = this.prompt(this.caption(prompt, style));
    const prompts = guided ? [own, this.prompt(negative.trim())] : [own];
    const steps = own.positions.length, starts = prompts.map((one) => one.tokens.length);
    if (settings.clusters) throw new Error("clusters of codes are not read here; generate with clusters 0");
    const rows = new Rows(this, prompts, Math.max(...starts) + steps - 1, settings.emphasis);
    const stream = new Stream(seed, index);
    let states = await rows.read(prompts.map((one) => one.tokens));
    const codes = new Int32Array(steps).fill(-1);
    let [first] = await this.sampled([starts.map((start, row) => states(row, start - 1))], [0], settings, stream);
    codes[0] = first;
    let known = 1;
    while (known < steps) {
      await onStep?.(codes, known);
      const end = Math.min(known + (jacobi ? WINDOW : 1), steps);
      for (let step = known; step < end - 1; step++) if (codes[step] < 0) codes[step] = codes[step - 1];
      starts.forEach((start, row) => (rows.lengths[row] = start + known - 1));
      states = await rows.read(
        prompts.map((one) => Array.from({ length: end - known }, (_, i) => [codes[known - 1 + i], one.positions[known - 1 + i]])),
      );
      const before = Array.from({ length: end - known }, (_, i) => prompts.map((_, row) => states(row, i)));
      const places = before.map((_, i) => known + i), found = await this.sampled(before, places, settings, stream);
      let right = true, count = 0;
      for (let i = 0; i < found.length; i++) {
        if (right) count += 1;
        right &&= codes[places[i]] === found[i];
        codes[places[i]] = found[i];
      }
      known += count;
      stream.forget(known);
    }
    await onStep?.(codes, steps);
    return codes;
  }

  /** The tokens that follow states (of each step those of every row), by their steps. */
  async sampled(states, steps, settings, stream) {
    const width = this.files.hidden, hidden = new Float32Array(states.length * width);
    states.forEach((rows, i) => hidden.set(rows.length > 1 ? guide(...rows, settings.guidance) : rows[0], i * width));
    const input = new this.ort.Tensor("float32", hidden, [states.length, width]);
    const { data, dims } = (await this.head.run({ hidden: input })).logits;
    return steps.map((step, i) => {
      const logits = data.subarray(i * dims[1], (i + 1) * dims[1]);
      return sample(logits, stream.gumbel(step, dims[1]), settings);
    });
  }

  /** Pixels of codes: { data: Uint8ClampedArray (RGBA), width, height }; missing codes are those of `fill`. */
  async decode(codes, fill = 0) {
    const [rows, columns] = this.manifest.image.grid;
    const input = new this.ort.Tensor("int32", codes.map((code) => (code < 0 ? fill : code)), [1, rows, columns]);
    const { data, dims } = (await this.decoder.run({ codes: input })).images;
    const [, , height, width] = dims, pixels = new Uint8ClampedArray(4 * width * height), plane = width * height;
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.fround(data[c * plane + i] * 255);
      pixels[4 * i + 3] = 255;
    }
    return { data: pixels, width, height };
  }
}

/** Those parameters that are given. */
function given(params) {
  return Object.fromEntries(Object.entries(params).filter(([, value]) => value !== null && value !== undefined));
}
