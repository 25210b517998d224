// An exported family in the browser: generates images with onnxruntime-web, row by row, and describes them.
//
// The same decoding as cogview.onnx: prompts are read once, guesses of a Jacobi window are read together and each
// sampled with its own noise, so a seed gives the image that it gives in Python (up to rounding).

import { Captions } from "./captions.js";
import { guide, sample, Stream } from "./draws.js";
import { fitted } from "./images.js";
import { Rows, logitsOf } from "./rows.js";
import { TextTokenizer } from "./text.js";

const WINDOW = 4; // tokens sampled in one forward; in WebAssembly longer windows cost more than they save

export class Model {
  /**
   * @param ort the module onnxruntime-web
   * @param {(name: string) => Promise<Uint8Array>} load the bytes of a file of the exported folder
   * @param options of sessions: executionProviders and the like
   * @param onImages the same for the image tokenizer
   */
  static async open(ort, load, options = {}, onImages = options) {
    const model = Object.assign(new Model(), { ort, load, options, onImages });
    model.manifest = JSON.parse(new TextDecoder().decode(await load("manifest.json")));
    if (model.manifest.kind !== "cogview-onnx" || model.manifest.format !== 1) throw new Error("no exported model");
    const { transformers, image, text } = model.manifest;
    model.files = transformers.base;
    model.text = new TextTokenizer(await load(text));
    model.session = await model.opened(model.files.graph, model.files.weights);
    model.head = await model.opened(model.files.heads.image.graph, model.files.weights);
    model.decoder = await model.opened(image.decoder, image.decoder.replace(/onnx$/, "bin"), onImages);
    return model;
  }

  async opened(graph, weights, options = this.options) {
    const externalData = [{ path: weights.split("/").pop(), data: await this.load(weights) }];
    return this.ort.InferenceSession.create(await this.load(graph), { externalData, ...options });
  }

  /** Whether it describes and scores images. */
  get describes() {
    return Boolean(this.manifest.captions);
  }

  /** The caption model, loaded when it is first asked for: a role of its own, or a CogLM's other head. */
  captions() {
    this.opening ??= (async () => {
      const { transformers, captions } = this.manifest, { ort } = this;
      const files = transformers.caption ?? transformers.coglm ?? transformers.base;
      const session = files === this.files ? this.session : await this.opened(files.graph, files.weights);
      const head = await this.opened(files.heads.text.graph, files.weights);
      return new Captions({ ort, session, head, files }, captions, this.text);
    })();
    this.opening.catch(() => (this.opening = null)); // it may be asked for again
    return this.opening;
  }

  /** Codes of an image { data: RGBA bytes over white, width, height }, as the caption model reads it. */
  async encode(image) {
    const { fitting, image: files } = this.manifest;
    this.encoder ??= await this.opened(files.encoder, files.encoder.replace(/onnx$/, "bin"), this.onImages);
    const pixels = new this.ort.Tensor("float32", fitted(image, fitting), [1, 3, fitting.size, fitting.size]);
    return Int32Array.from((await this.encoder.run({ images: pixels })).codes.data);
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
    if (settings.clusters && !this.manifest.clusters) throw new Error("this model has no clusters of image codes; generate with clusters 0");
    const steps = own.positions.length, starts = prompts.map((one) => one.tokens.length);
    const bias = settings.emphasis, biased = prompts.map((one) => (bias ? one.biased : 0));
    const rows = new Rows(this, biased, Math.max(...starts) + steps - 1, bias);
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
    const guided = states.map((rows) => (rows.length > 1 ? guide(...rows, settings.guidance) : rows[0]));
    const logits = await logitsOf(this, guided);
    return steps.map((step, i) => sample(logits[i], stream.gumbel(step, logits[i].length), settings, this.manifest.clusters));
  }

  /** Pixels of codes: { data: Uint8ClampedArray (RGBA), width, height }; missing codes are those of `fill`. */
  async decode(codes, fill = 0) {
    const [rows, columns] = this.manifest.family.roles.base.sequences.grid;
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
