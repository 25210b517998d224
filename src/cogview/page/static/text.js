// The text tokenizer in the browser: a SentencePiece unigram model, read from its file.
//
// Normalisation uses the file's rules (a double-array trie); segmentation is the Viterbi path of SentencePiece's
// optimised encoder, with byte fallback. Tests compare the tokens with SentencePiece's.

const SPACE = "\u2581"; // represents a space in pieces
const NORMAL = 1, UNKNOWN = 2, USER_DEFINED = 4, BYTE = 6;
const UNKNOWN_PENALTY = 10;

/** The fields of a protocol buffer message, in order: [number, value]; strings and messages as bytes. */
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 0;
  const varint = () => {
    let value = 0, shift = 1;
    for (;;) {
      const byte = bytes[position++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
      shift *= 128;
    }
  };
  while (position < bytes.length) {
    const key = varint(), number = Math.floor(key / 8), wireType = key % 8;
    if (wireType === 0) yield [number, varint()];
    else if (wireType === 5) (position += 4), yield [number, view.getFloat32(position - 4, true)];
    else if (wireType === 1) (position += 8), yield [number, view.getFloat64(position - 8, true)];
    else if (wireType === 2) {
      const length = varint();
      yield [number, bytes.subarray(position, (position += length))];
    } else throw new Error("not a SentencePiece model");
  }
}

/** SentencePiece's normalisation rules: replacements of prefixes, stored in a double-array trie. */
class NormalizationRules {
  constructor(blob) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const size = blob.length ? view.getUint32(0, true) : 0;
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.strings = blob.subarray(4 + size);
  }

  /** [replacement bytes, length] of the longest rule that matches UTF-8 bytes at a position; null if none matches. */
  match(bytes, position) {
    const offset = (unit) => (unit >>> 10) << ((unit & 512) >>> 6);
    let longest = null, node = this.units.length ? offset(this.units[0]) : 0;
    for (let i = position; i < bytes.length && this.units.length; i++) {
      node ^= bytes[i];
      const unit = this.units[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== bytes[i]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) longest = [this.units[node] & 0x7fffffff, i + 1 - position];
    }
    if (!longest) return null;
    const [start, length] = longest;
    return [this.strings.subarray(start, this.strings.indexOf(0, start)), length];
  }
}

export class TextTokenizer {
  /** @param {Uint8Array} model the bytes of a SentencePiece file */
  constructor(model) {
    const decode = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    this.pieces = [];
    this.normalizer = { 2: new Uint8Array(), 3: 1, 4: 1, 5: 1 }; // rules, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    let modelType = 1;
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
        for (const [n, v] of fields(value)) if (n === 3) modelType = v;
      } else if (number === 3) {
        for (const [n, v] of fields(value)) this.normalizer[n] = v;
      }
    }
    if (modelType !== 1) throw new Error("only unigram models of SentencePiece are read here");
    this.rules = new NormalizationRules(this.normalizer[2]);
    this.ids = new Map();
    this.bytes = [];
    const scores = this.pieces.filter((piece) => piece.type === NORMAL).map((piece) => piece.score);
    this.unknownScore = Math.fround(Math.min(...scores) - UNKNOWN_PENALTY);
    this.maxScore = Math.max(1.1754943508222875e-38, ...scores); // SentencePiece starts at the smallest positive float
    this.maxLength = 0;
    this.userDefined = [];
    this.pieces.forEach((piece, id) => {
      if (piece.type === NORMAL || piece.type === USER_DEFINED) {
        this.ids.set(piece.text, id);
        this.maxLength = Math.max(this.maxLength, [...piece.text].length);
        if (piece.type === USER_DEFINED) this.userDefined.push(new TextEncoder().encode(piece.text));
      } else if (piece.type === BYTE) this.bytes[parseInt(piece.text.slice(3, 5), 16)] = id;
      else if (piece.type === UNKNOWN) this.unknown = id;
    });
    this.userDefined.sort((a, b) => b.length - a.length);
    this.userDefinedByByte = new Map();
    for (const symbol of this.userDefined) this.userDefinedByByte.set(symbol[0], [...(this.userDefinedByByte.get(symbol[0]) ?? []), symbol]);
  }

  /** [normalised bytes, length of the input] of the next symbol at a position. */
  nextNormalised(bytes, position) {
    for (const symbol of this.userDefinedByByte.get(bytes[position]) ?? []) {
      if (symbol.every((byte, i) => bytes[position + i] === byte)) return [symbol, symbol.length];
    }
    const replacement = this.rules.match(bytes, position);
    if (replacement) return replacement;
    const first = bytes[position], length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    return [bytes.subarray(position, position + length), length];
  }

  /** The normalised text that SentencePiece segments: by the file's rules, with spaces marked. */
  normalise(text) {
    const bytes = new TextEncoder().encode(text), output = [], trimSpaces = this.normalizer[4];
    const isSpace = (part) => part.length === 1 && part[0] === 32;
    const spaceMark = [...new TextEncoder().encode(this.normalizer[5] ? SPACE : " ")];
    let position = 0;
    while (trimSpaces && position < bytes.length) {
      const [part, length] = this.nextNormalised(bytes, position);
      if (!isSpace(part)) break;
      position += length;
    }
    if (position >= bytes.length) return "";
    if (this.normalizer[3]) output.push(...spaceMark);
    let afterSpace = Boolean(trimSpaces);
    while (position < bytes.length) {
      let [part, length] = this.nextNormalised(bytes, position);
      while (afterSpace && part.length && part[0] === 32) part = part.subarray(1);
      if (part.length) {
        for (const byte of part) byte === 32 ? output.push(...spaceMark) : output.push(byte);
        afterSpace = part[part.length - 1] === 32;
      }
      position += length;
      if (!trimSpaces) afterSpace = false;
    }
    const result = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(output));
    return trimSpaces ? result.replace(this.normalizer[5] ? /\u2581+$/ : / +$/, "") : result;
  }

  /** The token ids of a text, from 0. */
  encode(text) {
    const characters = [...this.normalise(text)];
    const best = characters.map(() => null); // for each end: score, start, piece id (-1: unknown)
    best.push(null);
    best[0] = { score: 0, start: -1, id: -1 };
    const encoder = new TextEncoder();
    for (let start = 0; start < characters.length; start++) {
      const startScore = best[start].score;
      let hasSingle = false, candidate = "";
      for (let end = start + 1; end <= Math.min(characters.length, start + this.maxLength); end++) {
        candidate += characters[end - 1];
        const id = this.ids.get(candidate);
        if (id === undefined) continue;
        const piece = this.pieces[id];
        const score =
          piece.type === USER_DEFINED ? encoder.encode(candidate).length * this.maxScore - 0.1 + startScore : Math.fround(piece.score + startScore);
        if (best[end] === null || score > best[end].score) best[end] = { score: Math.fround(score), start, id };
        hasSingle ||= end === start + 1;
      }
      if (!hasSingle) {
        const score = Math.fround(this.unknownScore + startScore);
        if (best[start + 1] === null || score > best[start + 1].score) best[start + 1] = { score, start, id: -1 };
      }
    }
    const path = [];
    for (let end = characters.length; end > 0; end = best[end].start) path.push([best[end].id, best[end].start, end]);
    const ids = [];
    let unknown = false;
    for (const [id, start, end] of path.reverse()) {
      if (id >= 0) ids.push(id);
      else if (this.bytes.length) for (const byte of encoder.encode(characters.slice(start, end).join(""))) ids.push(this.bytes[byte]);
      else if (!unknown) ids.push(this.unknown);
      unknown = id < 0;
    }
    return ids;
  }

  /** The text of token ids. */
  decode(ids) {
    const encoder = new TextEncoder(), output = [];
    for (const id of ids) {
      const piece = this.pieces[id];
      if (piece.type === BYTE) output.push(parseInt(piece.text.slice(3, 5), 16));
      else if (piece.type === NORMAL || piece.type === USER_DEFINED) output.push(...encoder.encode(piece.text));
      else if (piece.type === UNKNOWN) output.push(...encoder.encode(" \u2047 "));
    }
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(output)).replaceAll(SPACE, " ");
    return this.normalizer[3] && text.startsWith(" ") ? text.slice(1) : text;
  }
}
