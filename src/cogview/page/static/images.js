// Preprocessing of images for the caption model: crop and resampling as in Pillow, which the Python package uses.

const SCALE = 2 ** 22; // of Pillow's fixed-point weights
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
};

/** For each output index, the first input index and the fixed-point weights of the inputs from there on. */
function resampleWeights(oldSize, newSize, [radius, filter]) {
  const scale = oldSize / newSize, stretch = Math.max(scale, 1), support = radius * stretch;
  return Array.from({ length: newSize }, (_, index) => {
    const centre = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5)), end = Math.min(oldSize, Math.trunc(centre + support + 0.5));
    const coefficients = Array.from({ length: end - first }, (_, i) => filter((i + first - centre + 0.5) * (1 / stretch)));
    const sum = coefficients.reduce((a, b) => a + b, 0);
    return [first, coefficients.map((w) => Math.trunc(w * (1 / sum) * SCALE + 0.5))];
  });
}

/** RGB bytes resampled along one axis, from oldSize to newSize; otherSize is the length of the other axis. */
function resampleAxis(data, oldSize, newSize, otherSize, filter, horizontal) {
  if (oldSize === newSize) return data;
  const result = new Uint8Array(3 * newSize * otherSize), axisWeights = resampleWeights(oldSize, newSize, filter);
  const offsetOf = (index, otherIndex, side) => 3 * (horizontal ? otherIndex * side + index : index * otherSize + otherIndex);
  for (let otherIndex = 0; otherIndex < otherSize; otherIndex++)
    axisWeights.forEach(([first, coefficients], index) => {
      for (let c = 0; c < 3; c++) {
        let sum = SCALE / 2;
        for (let i = 0; i < coefficients.length; i++) sum += coefficients[i] * data[offsetOf(first + i, otherIndex, oldSize) + c];
        result[offsetOf(index, otherIndex, newSize) + c] = Math.min(255, Math.max(0, Math.floor(sum / SCALE)));
      }
    });
  return result;
}

/** Resize an image { data: RGB bytes, width, height }. */
export function resize({ data, width, height }, newWidth, newHeight, resample) {
  const widened = resampleAxis(data, width, newWidth, height, FILTERS[resample], true);
  return { data: resampleAxis(widened, height, newHeight, newWidth, FILTERS[resample], false), width: newWidth, height: newHeight };
}

const roundHalfEven = (x) => (x % 1 === 0.5 && Math.floor(x) % 2 === 0 ? Math.floor(x) : Math.round(x));

/**
 * Pixels (3, size, size) in [0, 1] of an image, cropped to its centre or stretched, as the manifest's `fitting` says.
 *
 * @param image { data: RGBA bytes over white, width, height }
 */
export function fitImage({ data, width, height }, { size, crop, resample }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = data[4 * i + c];
  const shorter = Math.min(width, height);
  const scaledSide = (side) => (crop ? Math.max(size, Math.trunc((size * side) / shorter)) : size);
  const resized = resize({ data: rgb, width, height }, scaledSide(width), scaledSide(height), resample);
  const left = roundHalfEven((resized.width - size) / 2), top = roundHalfEven((resized.height - size) / 2);
  const pixels = new Float32Array(3 * size * size);
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) pixels[(c * size + y) * size + x] = resized.data[3 * ((top + y) * resized.width + left + x) + c] / 255;
  return pixels;
}
