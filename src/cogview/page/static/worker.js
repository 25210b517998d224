// The model, in a worker so that the page's main thread stays free.

import { Model } from "./model.js";

const base = new URL(".", import.meta.url);
const RUNTIMES = { webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"], wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"] };
let model = null, opening = null, lastStopped = 0, loadedBytes = 0, countedFiles = new Set();

/** Download a file of the model. Reports the bytes to the page as they arrive, and then the name, so that the page has it cached for offline use. */
async function load(name) {
  const response = await fetch(new URL(`model/${name}`, base));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  const chunks = [], reader = response.body.getReader(), isFirst = !countedFiles.has(name);
  countedFiles.add(name);
  for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
    chunks.push(chunk.value);
    if (isFirst) postMessage({ kind: "loaded", bytes: (loadedBytes += chunk.value.length) });
  }
  if (isFirst) postMessage({ kind: "used", names: [`model/${name}`] });
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/** Whether to use a GPU. A software adapter is slower than WebAssembly, so it is used only on request. */
async function hasGpu(requested) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter && (requested || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)));
}

/**
 * Open the model with WebGPU if available, else with WebAssembly: with threads if the page is cross-origin isolated.
 *
 * Transformers with int8 weights use integer matrix products, which have no WebGPU kernels: they run in WebAssembly, the image tokenizer on the GPU.
 */
async function open({ weights, runtime }) {
  const gpu = !["wasm", "single"].includes(runtime) && (await hasGpu(runtime === "webgpu"));
  const backends = gpu ? ["webgpu", "wasm"] : ["wasm"];
  for (const backend of backends) {
    const [module, binary] = RUNTIMES[backend].map((name) => `runtime/${name}`);
    try {
      const ort = await import(new URL(module, base));
      ort.env.wasm.wasmPaths = { mjs: new URL(`${binary}.mjs`, base).href, wasm: new URL(`${binary}.wasm`, base).href };
      ort.env.wasm.numThreads = self.crossOriginIsolated && runtime !== "single" ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
      const options = (providers) => ({ executionProviders: providers, logSeverityLevel: 3 });
      const imageOptions = options(backend === "webgpu" ? ["webgpu", "wasm"] : ["wasm"]);
      model = await Model.open(ort, load, weights === "int8" ? options(["wasm"]) : imageOptions, imageOptions);
      await model.decode(new Int32Array(model.prompt("").positions.length)); // a GPU may fail only when it runs the model
      postMessage({ kind: "used", names: [module, `${binary}.mjs`, `${binary}.wasm`] });
      const { family, model_hash } = model.manifest;
      postMessage({ kind: "open", family, model_hash, canCaption: model.canCaption, threads: ort.env.wasm.numThreads, gpu: backend === "webgpu" });
      return;
    } catch (error) {
      if (backend === backends.at(-1)) throw error;
    }
  }
}

/** Generate an image, the best of `bestOf` candidates; sends partial images as often as their decoding takes little of the time. */
async function generate({ number, prompt, options, bestOf }) {
  let decodeTime = 0, lastPartial = performance.now(), lastPause = 0, best = null;
  for (let candidate = 0; candidate < bestOf; candidate++) {
    const index = options.index + candidate;
    const onStep = async (codes, known) => {
      if (performance.now() - lastPause > 100) {
        await new Promise((resume) => setTimeout(resume)); // lets a stop message arrive
        lastPause = performance.now();
      }
      if (number <= lastStopped) throw new Error("stopped");
      postMessage({ kind: "step", number, candidate });
      if (known === codes.length || performance.now() - lastPartial < 4 * decodeTime) return;
      const start = performance.now();
      postMessage({ kind: "partial", number, image: await model.decode(codes.map((c, i) => (i < known ? c : codes[known - 1]))) });
      decodeTime = (lastPartial = performance.now()) - start;
    };
    const codes = await model.generate(prompt, { ...options, index, onStep });
    const loss = bestOf > 1 ? await (await model.captions()).loss(codes, model.caption(prompt, options.style)) : 0;
    if (!best || loss < best.loss) best = { codes, index, loss };
  }
  const selection = bestOf > 1 ? { of: bestOf, rank: 0, caption_loss: Math.round(1e5 * best.loss) / 1e5 } : null;
  postMessage({ kind: "done", number, image: await model.decode(best.codes), codes: best.codes, index: best.index, selection });
}

/** Caption an image, given as codes or pixels. */
async function describe({ number, codes, image, language }) {
  const captioner = await model.captions(), imageCodes = codes ?? (await model.encode(image));
  const results = await captioner.beamSearch(imageCodes, { n: 3, language });
  postMessage({ kind: "described", number, captions: results.map(({ text }) => text).filter(Boolean) });
}

const handlers = { generate, describe };
let queue = Promise.resolve();
onmessage = ({ data }) => {
  if (data.kind === "stop") lastStopped = data.number;
  else if (data.kind === "open") {
    opening = open(data);
    queue = opening.catch((error) => postMessage({ kind: "failed", reason: error.message ?? String(error) }));
  } else {
    queue = queue
      .then(() => (data.number <= lastStopped && data.kind === "generate" ? Promise.reject(new Error("stopped")) : handlers[data.kind](data)))
      .catch((error) => postMessage({ kind: "problem", number: data.number, reason: error.message ?? String(error) }));
  }
};
