// An exported model family in the browser: generates images with onnxruntime-web, token by token, and captions them.
//
// Decoding is that of cogview.onnx: the prompt is read once, the guesses of a Jacobi window are read in one forward pass
// and each token is sampled with its own noise, so that a seed gives the same image as in Python (up to rounding).

import { Captions } from "./captions.js";
import { guide, sample, Stream } from "./draws.js";
import { fitImage } from "./images.js";
import { Rows, logitsOf } from "./rows.js";
import { TextTokenizer } from "./text.js";

const WINDOW = 4; // tokens sampled per forward pass; in WebAssembly longer windows cost more than they save

export class Model {
  /**
   * @param ort the onnxruntime-web module
   * @param {(name: string) => Promise<Uint8Array>} load returns the bytes of a file in the exported folder
   * @param options session options, such as executionProviders
   * @param imageOptions session options of the image tokenizer
   */
  static async open(ort, load, options = {}, imageOptions = options) {
    const model = Object.assign(new Model(), { ort, load, options, imageOptions });
    model.manifest = JSON.parse(new TextDecoder().decode(await load("manifest.json")));
    if (model.manifest.kind !== "cogview-onnx" || model.manifest.format !== 1) throw new Error("no exported model");
    const { transformers, image, text } = model.manifest;
    model.files = transformers.base;
    model.text = new TextTokenizer(await load(text));
    model.session = await model.openSession(model.files.graph, model.files.weights);
    model.head = await model.openSession(model.files.heads.image.graph, model.files.weights);
    model.decoder = await model.openSession(image.decoder, image.decoder.replace(/onnx$/, "bin"), imageOptions);
    return model;
  }

  async openSession(graph, weights, options = this.options) {
    const externalData = [{ path: weights.split("/").pop(), data: await this.load(weights) }];
    return this.ort.InferenceSession.create(await this.load(graph), { externalData, ...options });
  }

  /** Whether the model captions and scores images. */
  get canCaption() {
    return Boolean(this.manifest.captions);
  }

  /** The caption model, loaded at first use: the caption role, or the text head of a CogLM or of the base model. */
  captions() {
    this.loadingCaptions ??= (async () => {
      const { transformers, captions } = this.manifest, { ort } = this;
      const files = transformers.caption ?? transformers.coglm ?? transformers.base;
      const session = files === this.files ? this.session : await this.openSession(files.graph, files.weights);
      const head = await this.openSession(files.heads.text.graph, files.weights);
      return new Captions({ ort, session, head, files }, captions, this.text);
    })();
    this.loadingCaptions.catch(() => (this.loadingCaptions = null)); // after an error, the next call tries again
    return this.loadingCaptions;
  }

  /** Encode an image { data: RGBA bytes over white, width, height }: the codes that the caption model reads. */
  async encode(image) {
    const { fitting, image: files } = this.manifest;
    this.encoder ??= await this.openSession(files.encoder, files.encoder.replace(/onnx$/, "bin"), this.imageOptions);
    const pixels = new this.ort.Tensor("float32", fitImage(image, fitting), [1, 3, fitting.size, fitting.size]);
    return Int32Array.from((await this.encoder.run({ images: pixels })).codes.data);
  }

  /** The caption that the model reads: the prompt, with the style's phrase in its language; throws for an empty prompt or an unknown style. */
  caption(prompt, style = null) {
    const { styles, templates } = this.manifest.family, text = prompt.trim();
    if (!text) throw new Error("the prompt is empty; say what to draw");
    if (style === null) return text;
    const language = /\p{Script=Han}/u.test(text) ? "zh" : "en", phrase = styles[style]?.[language];
    if (phrase === undefined) throw new Error(`no style ${style} in the prompt's language`);
    return templates[language].replace("{style}", phrase).replace("{caption}", text);
  }

  /** The token sequence of a caption: tokens [id, position] and the positions of the image's codes. */
  prompt(caption) {
    const layout = this.manifest.prompt, textIds = this.text.encode(caption), offset = layout.shift * textIds.length;
    if (textIds.length > layout.text_limit)
      throw new Error(`the prompt has ${textIds.length} tokens and the model reads ${layout.text_limit}; shorten it`);
    const tokens = [
      ...layout.before.map((id, i) => [id, layout.before_positions[i]]),
      ...textIds.map((id, i) => [layout.text_first + id, layout.text_position + i]),
      ...layout.after.map((id, i) => [id, layout.after_positions[i] + offset]),
    ];
    tokens.twoWay = layout.two_way === null ? 0 : layout.two_way + textIds.length;
    const positions = layout.code_positions.map((position) => position + offset);
    return { tokens, positions, biased: layout.biased + textIds.length };
  }

  /**
   * Generate the codes of one image.
   *
   * @param params override the family's defaults: temperature, top_k, top_p, guidance
   * @param onStep called after each forward pass with the codes and the number of final ones; an exception stops the generation
   */
  async generate(prompt, { seed = 0, index = 0, style = null, negative = "", params = {}, jacobi = true, onStep = null } = {}) {
    const { family } = this.manifest;
    const settings = { ...family.defaults, ...definedEntries(family.style_defaults[style] ?? {}), ...definedEntries(params) };
    const guided = settings.guidance !== 1, conditional = this.prompt(this.caption(prompt, style));
    const prompts = guided ? [conditional, this.prompt(negative.trim())] : [conditional];
    if (settings.clusters && !this.manifest.clusters) throw new Error("this model has no clusters of image codes; generate with clusters 0");
    const steps = conditional.positions.length, promptLengths = prompts.map((entry) => entry.tokens.length);
    const bias = settings.emphasis, biased = prompts.map((entry) => (bias ? entry.biased : 0));
    const rows = new Rows(this, biased, Math.max(...promptLengths) + steps - 1, bias);
    const stream = new Stream(seed, index);
    let states = await rows.read(prompts.map((entry) => entry.tokens));
    const codes = new Int32Array(steps).fill(-1);
    let [first] = await this.sampleTokens([promptLengths.map((length, row) => states(row, length - 1))], [0], settings, stream);
    codes[0] = first;
    let known = 1;
    while (known < steps) {
      await onStep?.(codes, known);
      const end = Math.min(known + (jacobi ? WINDOW : 1), steps);
      for (let step = known; step < end - 1; step++) if (codes[step] < 0) codes[step] = codes[step - 1];
      promptLengths.forEach((length, row) => (rows.lengths[row] = length + known - 1));
      states = await rows.read(
        prompts.map((entry) => Array.from({ length: end - known }, (_, i) => [codes[known - 1 + i], entry.positions[known - 1 + i]])),
      );
      const windowStates = Array.from({ length: end - known }, (_, i) => prompts.map((_, row) => states(row, i)));
      const windowSteps = windowStates.map((_, i) => known + i), sampled = await this.sampleTokens(windowStates, windowSteps, settings, stream);
      let matching = true, accepted = 0;
      for (let i = 0; i < sampled.length; i++) {
        if (matching) accepted += 1;
        matching &&= codes[windowSteps[i]] === sampled[i];
        codes[windowSteps[i]] = sampled[i];
      }
      known += accepted;
      stream.dropBefore(known);
    }
    await onStep?.(codes, steps);
    return codes;
  }

  /** Sample the tokens of some steps from their hidden states (for each step, one per row). */
  async sampleTokens(states, steps, settings, stream) {
    const guided = states.map((rows) => (rows.length > 1 ? guide(...rows, settings.guidance) : rows[0]));
    const logits = await logitsOf(this, guided);
    return steps.map((step, i) => sample(logits[i], stream.gumbel(step, logits[i].length), settings, this.manifest.clusters));
  }

  /** Decode codes to an image { data: Uint8ClampedArray (RGBA), width, height }; `fill` replaces missing codes. */
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

/** The parameters that are neither null nor undefined. */
function definedEntries(params) {
  return Object.fromEntries(Object.entries(params).filter(([, value]) => value !== null && value !== undefined));
}
