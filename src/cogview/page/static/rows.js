// Sequences that a transformer reads: their cache of keys and values, and who sees whom. As cogview.onnx.cached_rows.

const HIDDEN = -Infinity;

export class Rows {
  /**
   * @param model { ort, session, files }: the module, an opened transformer, its entry of the manifest
   * @param {number[]} biased first tokens of each row that get `bias`
   */
  constructor(model, biased, capacity, bias = 0) {
    const { attention_heads: heads, head_dim: width, layers } = model.files, rows = biased.length;
    Object.assign(this, { model, rows, capacity, heads, width, bias, biased });
    this.lengths = new Int32Array(rows);
    this.caches = [];
    for (let i = 0; i < 2 * layers; i++) this.caches.push(new Float32Array(rows * heads * capacity * width));
  }

  /** Some of the sequences, each as often as it is named, in a cache of their own. */
  select(chosen) {
    const made = new Rows(this.model, chosen.map((row) => this.biased[row]), this.capacity, this.bias);
    made.lengths = Int32Array.from(chosen, (row) => this.lengths[row]);
    const size = this.heads * this.capacity * this.width;
    this.caches.forEach((cache, i) => {
      chosen.forEach((row, place) => made.caches[i].set(cache.subarray(row * size, (row + 1) * size), place * size));
    });
    return made;
  }

  /** Read tokens (of each row an array of [id, position]); the states after each, by row and token. */
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

/** Logits (Float32Array each) that follow states. */
export async function logitsOf({ ort, head, files }, states) {
  const hidden = new Float32Array(states.length * files.hidden);
  states.forEach((state, i) => hidden.set(state, i * files.hidden));
  const { data, dims } = (await head.run({ hidden: new ort.Tensor("float32", hidden, [states.length, files.hidden]) })).logits;
  return states.map((_, i) => data.subarray(i * dims[1], (i + 1) * dims[1]));
}
