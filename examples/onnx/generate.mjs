// Generates images with an exported family and onnxruntime-web, in Node or any other runtime of JavaScript:
//
//     cogview export onnx pictogram pictogram-onnx --weights int8
//     npm install onnxruntime-web
//     node examples/onnx/generate.mjs pictogram-onnx "a red apple" 7 apple.ppm
//
// The last two are the seed, and the file to write (a portable pixmap). A browser does the same with fetch.

import fs from "node:fs/promises";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { Model } from "../../src/cogview/page/static/model.js";

const [folder, prompt, seed = "0", out = "image.ppm"] = process.argv.slice(2);
if (!prompt) {
  console.error("usage: node generate.mjs FOLDER PROMPT [SEED] [FILE.ppm]");
  process.exit(2);
}
const installed = createRequire(`${process.cwd()}/`).resolve("onnxruntime-web/wasm"); // where npm was run
const ort = await import(pathToFileURL(installed));
const runtime = ort.InferenceSession ? ort : ort.default;
runtime.env.wasm.numThreads = 1;

const start = performance.now();
const load = async (name) => new Uint8Array(await fs.readFile(`${folder}/${name}`));
const model = await Model.open(runtime, load, { executionProviders: ["wasm"], logSeverityLevel: 3 });
const opened = performance.now();
let forwards = 0;
const codes = await model.generate(prompt, { seed: Number(seed), onStep: () => (forwards += 1) });
const { data, width, height } = await model.decode(codes);
const pixels = Buffer.from(data.filter((_, i) => i % 4 < 3)); // without alpha
await fs.writeFile(out, Buffer.concat([Buffer.from(`P6 ${width} ${height} 255\n`), pixels]));
const seconds = ((performance.now() - opened) / 1000).toFixed(2);
console.log(`${out}: opened in ${((opened - start) / 1000).toFixed(2)} s, ${forwards} forwards in ${seconds} s`);
