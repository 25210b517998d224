// From logits to a token in the browser: the rules and the noise of cogview.generation.sampling.
//
// Sums are float32 where the package's are, so that a token differs only where two are tied up to rounding.

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
    this.kept = new Map();
  }

  /** Float32Array (tokens,) of a step; kept, since a window asks for a step several times. */
  gumbel(step, tokens) {
    if (!this.kept.has(step)) {
      const key = mix64((this.start + BigInt(step + 1) * GOLDEN) & MASK);
      const low = Number(key & 0xffffffffn) | 0, high = Number(key >> 32n) | 0;
      const scale = (1 - 2 ** -24) * 2 ** -31, half = f(scale / 2);
      const noise = new Float32Array(tokens);
      for (let token = 0; token < tokens; token++) {
        const bits = mix32(mix32(token ^ low) ^ high) & 0x7fffffff;
        const u = f(f(f(bits) * -scale) - half);
        noise[token] = -f(Math.log(-f(Math.log1p(u))));
      }
      this.kept.set(step, noise);
    }
    return this.kept.get(step);
  }

  /** Forget the noise of steps before this one. */
  forget(step) {
    for (const old of this.kept.keys()) if (old < step) this.kept.delete(old);
  }
}

/** States or logits moved away from those without the prompt: u + scale (c - u). */
export function guide(conditional, unconditional, scale) {
  return conditional.map((c, i) => {
    const u = unconditional[i], apart = f(c - u);
    return scale < 0.5 ? f(u + f(f(scale) * apart)) : f(c - f(apart * f(1 - scale)));
  });
}

/** Logits with all below the k-th largest at -Infinity; ties with it stay; 0 keeps all. */
export function keepTopK(logits, k) {
  if (k <= 0 || k >= logits.length) return logits;
  const least = Float32Array.from(logits).sort()[logits.length - k];
  return logits.map((x) => (x < least ? -Infinity : x));
}

/** Logits with -Infinity after the first tokens, by falling probability, that add up to more than p. */
export function keepTopP(logits, p) {
  if (!(p > 0 && p < 1)) return logits;
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  const raised = order.map((i) => Math.exp(logits[i] - logits[order[0]]));
  const total = raised.reduce((a, b) => a + b, 0), kept = Float32Array.from(logits);
  let before = 0;
  order.forEach((token, place) => {
    if (before > p) kept[token] = -Infinity;
    before += raised[place] / total;
  });
  return kept;
}

function largest(scores, noise) {
  let best = 0, most = -Infinity;
  for (let i = 0; i < scores.length; i++) {
    const score = f(scores[i] + noise[i]);
    if (score > most) (most = score), (best = i);
  }
  return best;
}

/** Log-probabilities of cluster sampling, but for a constant: the `k` likeliest clusters (0: all), then a code in one. */
export function byCluster(logits, labels, k, temperature) {
  const count = Math.max(...labels) + 1, inside = logits.map((x) => x / f(temperature));
  const masses = new Float64Array(count), most = new Float32Array(count).fill(-3.4028234663852886e38), sums = new Float64Array(count);
  const top = logits.reduce((a, b) => Math.max(a, b)), raised = logits.map((x) => Math.exp(f(x - top)));
  const all = f(raised.reduce((a, b) => a + b, 0));
  raised.forEach((x, i) => (masses[labels[i]] += f(x / all)));
  inside.forEach((x, i) => (most[labels[i]] = Math.max(most[labels[i]], x)));
  const shifted = inside.map((x, i) => x - most[labels[i]]);
  shifted.forEach((x, i) => (sums[labels[i]] += f(Math.exp(x))));
  const chance = keepTopK(Float32Array.from(masses, (x) => Math.log(f(x))), k).map((x, i) => x - f(Math.log(f(sums[i]))));
  return shifted.map((x, i) => (logits[i] === -Infinity ? -Infinity : chance[labels[i]] + x));
}

/**
 * One token of logits (Float32Array), given its noise.
 *
 * @param params as in the manifest: temperature, top_k, top_p, clusters, cluster_temperature
 * @param labels the cluster of each token, where the params ask for clusters
 */
export function sample(logits, noise, params, labels = null) {
  const temperature = f(params.temperature), scaled = logits.map((x) => x / temperature);
  if (params.clusters) {
    const chance = byCluster(scaled, labels, params.clusters, params.cluster_temperature ?? 1);
    return largest(keepTopP(keepTopK(chance, params.top_k), params.top_p), noise);
  }
  const k = params.top_k, cut = params.top_p > 0 && params.top_p < 1;
  if (!cut) {
    // A token that wins among all is the one where fewer than k logits are larger than its own.
    const found = largest(scaled, noise);
    let above = 0;
    if (k > 0 && k < scaled.length) for (const x of scaled) above += x > scaled[found];
    if (k <= 0 || above < k) return found;
  }
  return largest(keepTopP(keepTopK(scaled, k), params.top_p), noise);
}
