// The model, away from the page's own thread.

import { Model } from "./model.js";

const here = new URL(".", import.meta.url);
const RUNTIMES = { webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"], wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"] };
let model = null, opened = null, stopped = 0, loaded = 0, counted = new Set();

/** A file of the model, its bytes counted while they come; said to the page, which has it kept for use without a connection. */
async function load(name) {
  const answer = await fetch(new URL(`model/${name}`, here));
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  const parts = [], reader = answer.body.getReader(), fresh = !counted.has(name);
  counted.add(name);
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    if (fresh) postMessage({ kind: "loaded", bytes: (loaded += part.value.length) });
  }
  if (fresh) postMessage({ kind: "used", names: [`model/${name}`] });
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Whether there is a GPU. One that the processor pretends to be is slower than WebAssembly, so it has to be asked for. */
async function hasGpu(asked) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && (asked || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)));
}

/**
 * Open the model with WebGPU where there is one, else with WebAssembly: threads where the page is isolated, else one.
 *
 * Steps of weights of a byte are products of bytes, which have no kernels on GPUs: they stay in WebAssembly, images go to the GPU.
 */
async function open({ weights, runtime }) {
  const gpu = !["wasm", "single"].includes(runtime) && (await hasGpu(runtime === "webgpu"));
  const ways = gpu ? ["webgpu", "wasm"] : ["wasm"];
  for (const way of ways) {
    const [module, binary] = RUNTIMES[way].map((name) => `runtime/${name}`);
    try {
      const ort = await import(new URL(module, here));
      ort.env.wasm.wasmPaths = { mjs: new URL(`${binary}.mjs`, here).href, wasm: new URL(`${binary}.wasm`, here).href };
      ort.env.wasm.numThreads = self.crossOriginIsolated && runtime !== "single" ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
      const options = (providers) => ({ executionProviders: providers, logSeverityLevel: 3 });
      const onImages = options(way === "webgpu" ? ["webgpu", "wasm"] : ["wasm"]);
      model = await Model.open(ort, load, weights === "int8" ? options(["wasm"]) : onImages, onImages);
      await model.decode(new Int32Array(model.prompt("").positions.length)); // a GPU may fail as late as here
      postMessage({ kind: "used", names: [module, `${binary}.mjs`, `${binary}.wasm`] });
      const { family, model_hash } = model.manifest;
      postMessage({ kind: "open", family, model_hash, describes: model.describes, threads: ort.env.wasm.numThreads, gpu: way === "webgpu" });
      return;
    } catch (error) {
      if (way === ways.at(-1)) throw error;
    }
  }
}

/** The best of some candidates, or the only one; partial images on the way, as far as decoding them costs little. */
async function generate({ number, prompt, options, bestOf }) {
  let cost = 0, shown = performance.now(), heard = 0, best = null;
  for (let candidate = 0; candidate < bestOf; candidate++) {
    const index = options.index + candidate;
    const onStep = async (codes, known) => {
      if (performance.now() - heard > 100) {
        await new Promise((resume) => setTimeout(resume)); // a message to stop may come in
        heard = performance.now();
      }
      if (number <= stopped) throw new Error("stopped");
      postMessage({ kind: "step", number, candidate, known, all: codes.length });
      if (known === codes.length || performance.now() - shown < 4 * cost) return;
      const start = performance.now();
      postMessage({ kind: "partial", number, image: await model.decode(codes.map((c, i) => (i < known ? c : codes[known - 1]))) });
      cost = (shown = performance.now()) - start;
    };
    const codes = await model.generate(prompt, { ...options, index, onStep });
    const loss = bestOf > 1 ? await (await model.captions()).loss(codes, model.caption(prompt, options.style)) : 0;
    if (!best || loss < best.loss) best = { codes, index, loss };
  }
  const chosen = bestOf > 1 ? { of: bestOf, rank: 0, caption_loss: Math.round(1e5 * best.loss) / 1e5 } : null;
  postMessage({ kind: "done", number, image: await model.decode(best.codes), codes: best.codes, index: best.index, chosen });
}

/** Captions of codes, or of an image. */
async function describe({ number, codes, image, language }) {
  const captions = await model.captions(), own = codes ?? (await model.encode(image));
  const found = await captions.likeliest(own, { n: 3, language });
  postMessage({ kind: "described", number, captions: found.map(({ text }) => text).filter(Boolean) });
}

const work = { generate, describe };
let queue = Promise.resolve();
onmessage = ({ data }) => {
  if (data.kind === "stop") stopped = data.number;
  else if (data.kind === "open") {
    opened = open(data);
    queue = opened.catch((error) => postMessage({ kind: "failed", reason: error.message ?? String(error) }));
  } else {
    queue = queue
      .then(() => (data.number <= stopped && data.kind === "generate" ? Promise.reject(new Error("stopped")) : work[data.kind](data)))
      .catch((error) => postMessage({ kind: "problem", number: data.number, reason: error.message ?? String(error) }));
  }
};
