// The text tokenizer in the browser: SentencePiece's unigram model, read from its own file.
//
// Normalisation is that of the file (a table of rules in a double array), segmentation the Viterbi path of
// SentencePiece's optimised encoder, with byte fallback. Equal to SentencePiece by test, token by token.

const SPACE = "\u2581"; // stands for a space in pieces
const NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4, BYTE = 6;
const UNKNOWN_PENALTY = 10;

/** Fields of a protocol buffer, in order: [number, value]; bytes for texts and messages. */
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0, shift = 1;
    for (;;) {
      const byte = bytes[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
      shift *= 128;
    }
  };
  while (at < bytes.length) {
    const key = varint(), number = Math.floor(key / 8), kind = key % 8;
    if (kind === 0) yield [number, varint()];
    else if (kind === 5) (at += 4), yield [number, view.getFloat32(at - 4, true)];
    else if (kind === 1) (at += 8), yield [number, view.getFloat64(at - 8, true)];
    else if (kind === 2) {
      const length = varint();
      yield [number, bytes.subarray(at, (at += length))];
    } else throw new Error("not a SentencePiece model");
  }
}

/** SentencePiece's rules of normalisation: the longest prefix that a double array knows, and what it becomes. */
class Rules {
  constructor(blob) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const size = blob.length ? view.getUint32(0, true) : 0;
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.strings = blob.subarray(4 + size);
  }

  /** [replacement bytes, length] of the longest rule at a place of UTF-8 bytes; null where there is none. */
  match(bytes, at) {
    const offset = (unit) => (unit >>> 10) << ((unit & 512) >>> 6);
    let found = null, node = this.units.length ? offset(this.units[0]) : 0;
    for (let i = at; i < bytes.length && this.units.length; i++) {
      node ^= bytes[i];
      const unit = this.units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== bytes[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) found = [this.units[node] & 0x7fffffff, i + 1 - at];
    }
    if (!found) return null;
    const [start, length] = found;
    return [this.strings.subarray(start, this.strings.indexOf(0, start)), length];
  }
}

export class TextTokenizer {
  /** @param {Uint8Array} model the bytes of a SentencePiece file */
  constructor(model) {
    const decode = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    this.pieces = [];
    this.normal = { 2: new Uint8Array(), 3: 1, 4: 1, 5: 1 }; // rules, dummy prefix, no extra spaces, escaped ones
    let kind = 1;
    for (const [number, value] of fields(model)) {
      if (number === 1) {
        const piece = { text: "", score: 0, type: NORMAL };
        for (const [n, v] of fields(value)) {
          if (n === 1) piece.text = decode.decode(v);
          else if (n === 2) piece.score = v;
          else if (n === 3) piece.type = v;
        }
        this.pieces.push(piece);
      } else if (number === 2) {
        for (const [n, v] of fields(value)) if (n === 3) kind = v;
      } else if (number === 3) {
        for (const [n, v] of fields(value)) this.normal[n] = v;
      }
    }
    if (kind !== 1) throw new Error("only unigram models of SentencePiece are read here");
    this.rules = new Rules(this.normal[2]);
    this.known = new Map();
    this.bytes = [];
    const scores = this.pieces.filter((piece) => piece.type === NORMAL).map((piece) => piece.score);
    this.least = Math.fround(Math.min(...scores) - UNKNOWN_PENALTY);
    this.most = Math.max(1.1754943508222875e-38, ...scores); // SentencePiece starts at the least positive number
    this.longest = 0;
    this.defined = [];
    this.pieces.forEach((piece, id) => {
      if (piece.type === NORMAL || piece.type === USER_DEFINED) {
        this.known.set(piece.text, id);
        this.longest = Math.max(this.longest, [...piece.text].length);
        if (piece.type === USER_DEFINED) this.defined.push(new TextEncoder().encode(piece.text));
      } else if (piece.type === BYTE) this.bytes[parseInt(piece.text.slice(3, 5), 16)] = id;
      else if (piece.type === UNKNOWN) this.unknown = id;
    });
    this.defined.sort((a, b) => b.length - a.length);
    this.byFirst = new Map();
    for (const one of this.defined) this.byFirst.set(one[0], [...(this.byFirst.get(one[0]) ?? []), one]);
  }

  /** [bytes, length] of what stands at a place of the text, normalised. */
  step(bytes, at) {
    for (const one of this.byFirst.get(bytes[at]) ?? []) {
      if (one.every((byte, i) => bytes[at + i] === byte)) return [one, one.length];
    }
    const found = this.rules.match(bytes, at);
    if (found) return found;
    const first = bytes[at], length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    return [bytes.subarray(at, at + length), length];
  }

  /** The text as SentencePiece segments it: NFKC and more, spaces marked. */
  normalised(text) {
    const bytes = new TextEncoder().encode(text), made = [], spare = this.normal[4];
    const isSpace = (part) => part.length === 1 && part[0] === 32;
    const mark = [...new TextEncoder().encode(this.normal[5] ? SPACE : " ")];
    let at = 0;
    while (spare && at < bytes.length) {
      const [part, length] = this.step(bytes, at);
      if (!isSpace(part)) break;
      at += length;
    }
    if (at >= bytes.length) return "";
    if (this.normal[3]) made.push(...mark);
    let afterSpace = Boolean(spare);
    while (at < bytes.length) {
      let [part, length] = this.step(bytes, at);
      while (afterSpace && part.length && part[0] === 32) part = part.subarray(1);
      if (part.length) {
        for (const byte of part) byte === 32 ? made.push(...mark) : made.push(byte);
        afterSpace = part[part.length - 1] === 32;
      }
      at += length;
      if (!spare) afterSpace = false;
    }
    const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(made));
    return spare ? whole.replace(this.normal[5] ? /\u2581+$/ : / +$/, "") : whole;
  }

  /** Token ids of a text, from 0. */
  encode(text) {
    const letters = [...this.normalised(text)];
    const best = letters.map(() => null); // of each end: score, start, piece (-1: unknown)
    best.push(null);
    best[0] = { score: 0, start: -1, id: -1 };
    const encoder = new TextEncoder();
    for (let start = 0; start < letters.length; start++) {
      const here = best[start].score;
      let alone = false, part = "";
      for (let end = start + 1; end <= Math.min(letters.length, start + this.longest); end++) {
        part += letters[end - 1];
        const id = this.known.get(part);
        if (id === undefined) continue;
        const own = this.pieces[id];
        const worth =
          own.type === USER_DEFINED ? encoder.encode(part).length * this.most - 0.1 + here : Math.fround(own.score + here);
        if (best[end] === null || worth > best[end].score) best[end] = { score: Math.fround(worth), start, id };
        alone ||= end === start + 1;
      }
      if (!alone) {
        const worth = Math.fround(this.least + here);
        if (best[start + 1] === null || worth > best[start + 1].score) best[start + 1] = { score: worth, start, id: -1 };
      }
    }
    const path = [];
    for (let end = letters.length; end > 0; end = best[end].start) path.push([best[end].id, best[end].start, end]);
    const ids = [];
    let unknown = false;
    for (const [id, start, end] of path.reverse()) {
      if (id >= 0) ids.push(id);
      else if (this.bytes.length) for (const byte of encoder.encode(letters.slice(start, end).join(""))) ids.push(this.bytes[byte]);
      else if (!unknown) ids.push(this.unknown);
      unknown = id < 0;
    }
    return ids;
  }

  /** The text of token ids. */
  decode(ids) {
    const encoder = new TextEncoder(), made = [];
    for (const id of ids) {
      const piece = this.pieces[id];
      if (piece.type === BYTE) made.push(parseInt(piece.text.slice(3, 5), 16));
      else if (piece.type === NORMAL || piece.type === USER_DEFINED) made.push(...encoder.encode(piece.text));
      else if (piece.type === UNKNOWN) made.push(...encoder.encode(" \u2047 "));
    }
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(made)).replaceAll(SPACE, " ");
    return this.normal[3] && text.startsWith(" ") ? text.slice(1) : text;
  }
}
