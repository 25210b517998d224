// The model, away from the page's own thread.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { Model } from "./model.js";

const here = new URL(".", import.meta.url);
ort.env.wasm.wasmPaths = {
  mjs: new URL("runtime/ort-wasm-simd-threaded.mjs", here).href,
  wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", here).href,
};
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
let model = null, stopped = 0, loaded = 0;

/** A file of the model, its bytes counted while they come. */
async function load(name) {
  const answer = await fetch(new URL(`model/${name}`, here));
  if (!answer.ok) throw new Error(`${name}: ${answer.status}`);
  const parts = [], reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    postMessage({ kind: "loaded", bytes: (loaded += part.value.length) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function open() {
  model = await Model.open(ort, load, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  const { family, model_hash, weights } = model.manifest;
  postMessage({ kind: "open", family, model_hash, weights, threads: ort.env.wasm.numThreads });
}

/** One image; partial ones on the way, as far as decoding them costs little. */
async function generate({ number, prompt, options }) {
  let cost = 0, shown = performance.now(), heard = 0;
  const onStep = async (codes, known) => {
    if (performance.now() - heard > 100) {
      await new Promise((resume) => setTimeout(resume)); // a message to stop may come in
      heard = performance.now();
    }
    if (number <= stopped) throw new Error("stopped");
    postMessage({ kind: "step", number, known, all: codes.length });
    if (known === codes.length || performance.now() - shown < 4 * cost) return;
    const start = performance.now();
    postMessage({ kind: "partial", number, image: await model.decode(known ? codes.map((c, i) => (i < known ? c : codes[known - 1])) : codes) });
    cost = (shown = performance.now()) - start;
  };
  const codes = await model.generate(prompt, { ...options, onStep });
  postMessage({ kind: "done", number, image: await model.decode(codes), codes });
}

let queue = Promise.resolve();
onmessage = ({ data }) => {
  if (data.kind === "stop") stopped = data.number;
  else if (data.kind === "open") queue = queue.then(open).catch((error) => postMessage({ kind: "failed", reason: error.message }));
  else {
    queue = queue
      .then(() => (data.number <= stopped ? Promise.reject(new Error("stopped")) : generate(data)))
      .catch((error) => postMessage({ kind: "problem", number: data.number, reason: error.message }));
  }
};
