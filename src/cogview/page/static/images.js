// An image as a caption model reads it: the square and the resampling of Pillow, which the package uses.

const BITS = 2 ** 22; // of Pillow's whole numbers
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
};

/** Of each new place the first old one and the weights of those from there on, in whole numbers. */
function weights(before, after, [reach, filter]) {
  const scale = before / after, wide = Math.max(scale, 1), support = reach * wide;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5)), end = Math.min(before, Math.trunc(centre + support + 0.5));
    const own = Array.from({ length: end - first }, (_, i) => filter((i + first - centre + 0.5) * (1 / wide)));
    const sum = own.reduce((a, b) => a + b, 0);
    return [first, own.map((w) => Math.trunc(w * (1 / sum) * BITS + 0.5))];
  });
}

/** RGB bytes with one side resampled; `step` and `other` are the strides of that side and of the other one. */
function along(data, before, after, others, filter, horizontal) {
  if (before === after) return data;
  const made = new Uint8Array(3 * after * others), plan = weights(before, after, filter);
  const at = (place, other, side) => 3 * (horizontal ? other * side + place : place * others + other);
  for (let other = 0; other < others; other++)
    plan.forEach(([first, own], place) => {
      for (let c = 0; c < 3; c++) {
        let sum = BITS / 2;
        for (let i = 0; i < own.length; i++) sum += own[i] * data[at(first + i, other, before) + c];
        made[at(place, other, after) + c] = Math.min(255, Math.max(0, Math.floor(sum / BITS)));
      }
    });
  return made;
}

/** { data: RGB bytes, width, height } at another size. */
export function resized({ data, width, height }, newWidth, newHeight, resample) {
  const wide = along(data, width, newWidth, height, FILTERS[resample], true);
  return { data: along(wide, height, newHeight, newWidth, FILTERS[resample], false), width: newWidth, height: newHeight };
}

const halfEven = (x) => (x % 1 === 0.5 && Math.floor(x) % 2 === 0 ? Math.floor(x) : Math.round(x));

/**
 * Pixels (3, size, size) in [0, 1] of an image: cut to its centre or squeezed, as `fitting` of the manifest says.
 *
 * @param image { data: RGBA bytes over white, width, height }
 */
export function fitted({ data, width, height }, { size, crop, resample }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = data[4 * i + c];
  const short = Math.min(width, height);
  const longer = (side) => (crop ? Math.max(size, Math.trunc((size * side) / short)) : size);
  const small = resized({ data: rgb, width, height }, longer(width), longer(height), resample);
  const left = halfEven((small.width - size) / 2), top = halfEven((small.height - size) / 2);
  const made = new Float32Array(3 * size * size);
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) made[(c * size + y) * size + x] = small.data[3 * ((top + y) * small.width + left + x) + c] / 255;
  return made;
}
