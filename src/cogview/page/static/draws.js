// From logits to a token in the browser: the filters and the noise of cogview.generation.sampling.
//
// Arithmetic is float32 wherever the Python package's is, so that a token differs only if two are tied up to rounding.

const GOLDEN = 0x9e3779b97f4a7c15n, MASK = (1n << 64n) - 1n;
const f = Math.fround;

function mix64(x) {
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

function mix32(x) {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return x ^ (x >>> 16);
}

/** The random stream of one image: Gumbel noise as a function of seed, index, step and token. */
export class Stream {
  constructor(seed, index) {
    this.start = mix64(mix64((BigInt(seed) + GOLDEN) & MASK) ^ BigInt(index));
    this.cache = new Map();
  }

  /** The noise of a step, Float32Array (tokens,); cached, since windows overlap. */
  gumbel(step, tokens) {
    if (!this.cache.has(step)) {
      const key = mix64((this.start + BigInt(step + 1) * GOLDEN) & MASK);
      const low = Number(key & 0xffffffffn) | 0, high = Number(key >> 32n) | 0;
      const scale = (1 - 2 ** -24) * 2 ** -31, half = f(scale / 2);
      const noise = new Float32Array(tokens);
      for (let token = 0; token < tokens; token++) {
        const bits = mix32(mix32(token ^ low) ^ high) & 0x7fffffff;
        const u = f(f(f(bits) * -scale) - half);
        noise[token] = -f(Math.log(-f(Math.log1p(u))));
      }
      this.cache.set(step, noise);
    }
    return this.cache.get(step);
  }

  /** Drop the cached noise of the steps before this one. */
  dropBefore(step) {
    for (const cachedStep of this.cache.keys()) if (cachedStep < step) this.cache.delete(cachedStep);
  }
}

/** Classifier-free guidance on hidden states or logits: u + scale (c - u). */
export function guide(conditional, unconditional, scale) {
  return conditional.map((c, i) => {
    const u = unconditional[i], difference = f(c - u);
    return scale < 0.5 ? f(u + f(f(scale) * difference)) : f(c - f(difference * f(1 - scale)));
  });
}

/** Set logits below the k-th largest to -Infinity; ties are kept; 0 keeps all. */
export function keepTopK(logits, k) {
  if (k <= 0 || k >= logits.length) return logits;
  const threshold = Float32Array.from(logits).sort()[logits.length - k];
  return logits.map((x) => (x < threshold ? -Infinity : x));
}

/** Keep the most likely tokens whose probabilities first sum to more than p; set other logits to -Infinity. */
export function keepTopP(logits, p) {
  if (!(p > 0 && p < 1)) return logits;
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  const exponentials = order.map((i) => Math.exp(logits[i] - logits[order[0]]));
  const total = exponentials.reduce((a, b) => a + b, 0), filtered = Float32Array.from(logits);
  let cumulative = 0;
  order.forEach((token, rank) => {
    if (cumulative > p) filtered[token] = -Infinity;
    cumulative += exponentials[rank] / total;
  });
  return filtered;
}

function argmax(scores, noise) {
  let best = 0, bestScore = -Infinity;
  for (let i = 0; i < scores.length; i++) {
    const score = f(scores[i] + noise[i]);
    if (score > bestScore) (bestScore = score), (best = i);
  }
  return best;
}

/** Log-probabilities of cluster sampling, up to a constant: one of the `k` most likely clusters (0: all), then a code in it. */
export function byCluster(logits, labels, k, temperature) {
  const count = Math.max(...labels) + 1, tempered = logits.map((x) => x / f(temperature));
  const masses = new Float64Array(count), maxima = new Float32Array(count).fill(-3.4028234663852886e38), sums = new Float64Array(count);
  const maximum = logits.reduce((a, b) => Math.max(a, b)), exponentials = logits.map((x) => Math.exp(f(x - maximum)));
  const total = f(exponentials.reduce((a, b) => a + b, 0));
  exponentials.forEach((x, i) => (masses[labels[i]] += f(x / total)));
  tempered.forEach((x, i) => (maxima[labels[i]] = Math.max(maxima[labels[i]], x)));
  const shifted = tempered.map((x, i) => x - maxima[labels[i]]);
  shifted.forEach((x, i) => (sums[labels[i]] += f(Math.exp(x))));
  const offsets = keepTopK(Float32Array.from(masses, (x) => Math.log(f(x))), k).map((x, i) => x - f(Math.log(f(sums[i]))));
  return shifted.map((x, i) => (logits[i] === -Infinity ? -Infinity : offsets[labels[i]] + x));
}

/**
 * Sample a token from logits (Float32Array), with its noise.
 *
 * @param params as in the manifest: temperature, top_k, top_p, clusters, cluster_temperature
 * @param labels the cluster of each token, if the params use clusters
 */
export function sample(logits, noise, params, labels = null) {
  const temperature = f(params.temperature), scaled = logits.map((x) => x / temperature);
  if (params.clusters) {
    const logProbs = byCluster(scaled, labels, params.clusters, params.cluster_temperature ?? 1);
    return argmax(keepTopP(keepTopK(logProbs, params.top_k), params.top_p), noise);
  }
  const k = params.top_k, usesTopP = params.top_p > 0 && params.top_p < 1;
  if (!usesTopP) {
    // The unfiltered argmax is also the top-k result if fewer than k logits are larger than its own.
    const token = argmax(scaled, noise);
    let higherCount = 0;
    if (k > 0 && k < scaled.length) for (const x of scaled) higherCount += x > scaled[token];
    if (k <= 0 || higherCount < k) return token;
  }
  return argmax(keepTopP(keepTopK(scaled, k), params.top_p), noise);
}
