// A batch of sequences with its cache of keys and values, and its attention masks. Mirrors cogview.onnx.cached_rows.

const HIDDEN = -Infinity;

export class Rows {
  /**
   * @param model { ort, session, files }: the module, the transformer's session, its entry in the manifest
   * @param {number[]} biased number of leading tokens of each row whose attention scores get `bias`
   */
  constructor(model, biased, capacity, bias = 0) {
    const { attention_heads: heads, head_dim: width, layers } = model.files, rows = biased.length;
    Object.assign(this, { model, rows, capacity, heads, width, bias, biased });
    this.lengths = new Int32Array(rows);
    this.caches = [];
    for (let i = 0; i < 2 * layers; i++) this.caches.push(new Float32Array(rows * heads * capacity * width));
  }

  /** A copy of the selected rows, which may repeat, with a separate cache. */
  select(selected) {
    const copy = new Rows(this.model, selected.map((row) => this.biased[row]), this.capacity, this.bias);
    copy.lengths = Int32Array.from(selected, (row) => this.lengths[row]);
    const size = this.heads * this.capacity * this.width;
    this.caches.forEach((cache, i) => {
      selected.forEach((row, index) => copy.caches[i].set(cache.subarray(row * size, (row + 1) * size), index * size));
    });
    return copy;
  }

  /** Read new tokens (for each row an array of [id, position]) into the cache; returns a function (row, token) to the hidden state. */
  async read(tokens) {
    const { model, rows, capacity, heads, width } = this, { ort, session, files } = model;
    const maxLength = Math.max(...tokens.map((row) => row.length)), columns = capacity + maxLength;
    const ids = new Int32Array(rows * maxLength), positions = new Int32Array(rows * maxLength);
    const mask = new Float32Array(rows * maxLength * columns);
    tokens.forEach((row, r) => {
      row.forEach(([id, position], i) => ((ids[r * maxLength + i] = id), (positions[r * maxLength + i] = position)));
      for (let i = 0; i < maxLength; i++) {
        const maskRow = mask.subarray((r * maxLength + i) * columns, (r * maxLength + i + 1) * columns);
        maskRow.fill(this.bias, 0, Math.min(this.biased[r], this.lengths[r]));
        maskRow.fill(HIDDEN, this.lengths[r], capacity);
        if (this.biased[r] > this.lengths[r]) maskRow.fill(this.bias, capacity, capacity + this.biased[r] - this.lengths[r]);
        maskRow.fill(HIDDEN, capacity + Math.max(i + 1, row.twoWay ?? 0));
      }
    });
    const feed = {
      ids: new ort.Tensor("int32", ids, [rows, maxLength]),
      positions: new ort.Tensor("int32", positions, [rows, maxLength]),
      mask: new ort.Tensor("float32", mask, [rows, maxLength, columns]),
    };
    for (let layer = 0; layer < files.layers; layer++) {
      feed[`keys.${layer}`] = new ort.Tensor("float32", this.caches[2 * layer], [rows, heads, width, capacity]);
      feed[`values.${layer}`] = new ort.Tensor("float32", this.caches[2 * layer + 1], [rows, heads, capacity, width]);
    }
    const outputs = await session.run(feed);
    for (let layer = 0; layer < files.layers; layer++) {
      this.store(this.caches[2 * layer], outputs[`new_keys.${layer}`].data, tokens, maxLength, true);
      this.store(this.caches[2 * layer + 1], outputs[`new_values.${layer}`].data, tokens, maxLength, false);
    }
    tokens.forEach((row, r) => (this.lengths[r] += row.length));
    const hidden = outputs.hidden.data;
    return (row, token) => hidden.subarray((row * maxLength + token) * files.hidden, (row * maxLength + token + 1) * files.hidden);
  }

  store(cache, values, tokens, maxLength, keys) {
    const { heads, width, capacity } = this;
    tokens.forEach((row, r) => {
      const start = this.lengths[r], count = row.length;
      for (let head = r * heads; head < (r + 1) * heads; head++) {
        if (!keys) {
          const source = head * maxLength * width;
          cache.set(values.subarray(source, source + count * width), (head * capacity + start) * width);
        } else {
          for (let d = head * width; d < (head + 1) * width; d++)
            cache.set(values.subarray(d * maxLength, d * maxLength + count), d * capacity + start);
        }
      }
    });
  }
}

/** The logits (Float32Array each) of hidden states. */
export async function logitsOf({ ort, head, files }, states) {
  const hidden = new Float32Array(states.length * files.hidden);
  states.forEach((state, i) => hidden.set(state, i * files.hidden));
  const { data, dims } = (await head.run({ hidden: new ort.Tensor("float32", hidden, [states.length, files.hidden]) })).logits;
  return states.map((_, i) => data.subarray(i * dims[1], (i + 1) * dims[1]));
}
