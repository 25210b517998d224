// The mask painter: a mask that is painted over an image, at the image's resolution.

const OVERLAY_COLOUR = [15, 118, 110];
const MAX_UNDO = 20;

export class Painter {
  constructor(canvas) {
    Object.assign(this, { canvas, context: canvas.getContext("2d"), image: null, brush: 16, erasing: false, locked: false, history: [] });
    this.mask = document.createElement("canvas");
    this.cursor = null;
    canvas.addEventListener("pointerdown", (event) => this.startStroke(event));
    canvas.addEventListener("pointermove", (event) => this.continueStroke(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.lastPoint = null; });
    canvas.addEventListener("pointerleave", () => { if (!this.lastPoint) this.render(null); });
    canvas.addEventListener("keydown", (event) => this.handleKey(event));
    canvas.addEventListener("blur", () => this.render(null));
  }

  // Loads an image (ImageBitmap) and clears the mask.
  load(image) {
    this.image = image;
    for (const layer of [this.canvas, this.mask]) [layer.width, layer.height] = [image.width, image.height];
    this.history = [];
    this.render(null);
  }

  get layer() { return this.mask.getContext("2d", { willReadFrequently: true }); }
  get radius() { return (this.brush / 200) * Math.max(this.canvas.width, this.canvas.height); }
  get hasMask() { return this.pixels().data.some((value, index) => index % 4 === 3 && value > 127); }
  pixels() { return this.layer.getImageData(0, 0, this.mask.width, this.mask.height); }

  saveState() {
    this.history.push(this.pixels());
    if (this.history.length > MAX_UNDO) this.history.shift();
  }

  undo() {
    const before = this.history.pop();
    if (before) this.layer.putImageData(before, 0, 0);
    this.render(this.cursor);
  }

  clear() {
    this.saveState();
    this.layer.clearRect(0, 0, this.mask.width, this.mask.height);
    this.render(this.cursor);
  }

  invert() {
    this.saveState();
    const pixels = this.pixels();
    for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = pixels.data[i] > 127 ? 0 : 255;
    this.layer.putImageData(pixels, 0, 0);
    this.render(this.cursor);
  }

  positionOf(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / bounds.width;
    return { x: (event.clientX - bounds.left) * scale, y: (event.clientY - bounds.top) * scale };
  }

  startStroke(event) {
    if (event.button || this.locked) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.saveState();
    this.lastPoint = this.positionOf(event);
    this.stroke(this.lastPoint, this.lastPoint);
  }

  continueStroke(event) {
    const point = this.positionOf(event);
    if (this.lastPoint) {
      this.stroke(this.lastPoint, point);
      this.lastPoint = point;
    } else if (!this.locked) this.render(point);
  }

  handleKey(event) {
    if (this.locked) return;
    const step = Math.max(1, this.radius / (event.shiftKey ? 1 : 3));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const point = this.cursor ?? { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const clamp = (value, max) => Math.min(max, Math.max(0, value));
      this.render({ x: clamp(point.x + dx, this.canvas.width), y: clamp(point.y + dy, this.canvas.height) });
    } else if (event.key === " ") {
      this.saveState();
      this.stroke(point, point);
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  stroke(from, to) {
    const layer = this.layer;
    layer.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    layer.lineCap = layer.lineJoin = "round";
    layer.lineWidth = 2 * this.radius;
    layer.beginPath();
    layer.moveTo(from.x, from.y);
    layer.lineTo(to.x + 0.01, to.y);
    layer.stroke();
    layer.globalCompositeOperation = "source-over";
    this.render(to);
  }

  render(cursor) {
    this.cursor = cursor;
    if (!this.image) return;
    const { context, canvas } = this;
    const overlay = new OffscreenCanvas(canvas.width, canvas.height);
    const layer = overlay.getContext("2d");
    layer.drawImage(this.mask, 0, 0);
    layer.globalCompositeOperation = "source-in";
    layer.fillStyle = `rgb(${OVERLAY_COLOUR})`;
    layer.fillRect(0, 0, canvas.width, canvas.height);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.image, 0, 0);
    context.globalAlpha = 0.65;
    if (!this.locked) context.drawImage(overlay, 0, 0);
    context.globalAlpha = 1;
    if (!cursor) return;
    const pixel = canvas.width / Math.max(1, canvas.getBoundingClientRect().width);
    for (const [colour, factor] of [["#fff", 2.5], ["#000", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = factor * pixel;
      context.beginPath();
      context.arc(cursor.x, cursor.y, this.radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // The mask as a PNG: white where it is painted, black elsewhere.
  toBlob() {
    const pixels = this.pixels();
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data.fill(pixels.data[i + 3] > 127 ? 255 : 0, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    const flat = new OffscreenCanvas(this.mask.width, this.mask.height);
    flat.getContext("2d").putImageData(pixels, 0, 0);
    return flat.convertToBlob({ type: "image/png" });
  }
}
