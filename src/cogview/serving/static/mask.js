// The mask painter: what is painted over a picture, in the picture's own pixels.

const SHADE = [15, 118, 110];
const UNDO = 20;

export class Painter {
  constructor(canvas) {
    Object.assign(this, { canvas, context: canvas.getContext("2d"), picture: null, brush: 16, erasing: false, locked: false, past: [] });
    this.mask = document.createElement("canvas");
    this.cursor = null;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { this.last = null; });
    canvas.addEventListener("pointerleave", () => { if (!this.last) this.show(null); });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.show(null));
  }

  // A picture (ImageBitmap) with nothing painted.
  load(picture) {
    this.picture = picture;
    for (const each of [this.canvas, this.mask]) [each.width, each.height] = [picture.width, picture.height];
    this.past = [];
    this.show(null);
  }

  get layer() { return this.mask.getContext("2d", { willReadFrequently: true }); }
  get radius() { return (this.brush / 200) * Math.max(this.canvas.width, this.canvas.height); }
  get painted() { return this.pixels().data.some((value, index) => index % 4 === 3 && value > 127); }
  pixels() { return this.layer.getImageData(0, 0, this.mask.width, this.mask.height); }

  keep() {
    this.past.push(this.pixels());
    if (this.past.length > UNDO) this.past.shift();
  }

  undo() {
    const before = this.past.pop();
    if (before) this.layer.putImageData(before, 0, 0);
    this.show(this.cursor);
  }

  clear() {
    this.keep();
    this.layer.clearRect(0, 0, this.mask.width, this.mask.height);
    this.show(this.cursor);
  }

  invert() {
    this.keep();
    const pixels = this.pixels();
    for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = pixels.data[i] > 127 ? 0 : 255;
    this.layer.putImageData(pixels, 0, 0);
    this.show(this.cursor);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  down(event) {
    if (event.button || this.locked) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.keep();
    this.last = this.at(event);
    this.stroke(this.last, this.last);
  }

  move(event) {
    const here = this.at(event);
    if (this.last) {
      this.stroke(this.last, here);
      this.last = here;
    } else if (!this.locked) this.show(here);
  }

  key(event) {
    if (this.locked) return;
    const step = Math.max(1, this.radius / (event.shiftKey ? 1 : 3));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const here = this.cursor ?? { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      const within = (value, most) => Math.min(most, Math.max(0, value));
      this.show({ x: within(here.x + dx, this.canvas.width), y: within(here.y + dy, this.canvas.height) });
    } else if (event.key === " ") {
      this.keep();
      this.stroke(here, here);
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
    this.show(to);
  }

  show(cursor) {
    this.cursor = cursor;
    if (!this.picture) return;
    const { context, canvas } = this;
    const shade = new OffscreenCanvas(canvas.width, canvas.height);
    const layer = shade.getContext("2d");
    layer.drawImage(this.mask, 0, 0);
    layer.globalCompositeOperation = "source-in";
    layer.fillStyle = `rgb(${SHADE})`;
    layer.fillRect(0, 0, canvas.width, canvas.height);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.picture, 0, 0);
    context.globalAlpha = 0.65;
    if (!this.locked) context.drawImage(shade, 0, 0);
    context.globalAlpha = 1;
    if (!cursor) return;
    const width = canvas.width / Math.max(1, canvas.getBoundingClientRect().width);
    for (const [colour, more] of [["#fff", 2.5], ["#000", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = more * width;
      context.beginPath();
      context.arc(cursor.x, cursor.y, this.radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // Black, and white where it is painted.
  file() {
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
