// Draws the labels of one frame over its picture: masks, names, the ways tracks took, heads.

import { percent } from "./colours.js";

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.layers = { masks: true, names: true, tracks: true, heads: false };
    this.figures = [];
  }

  // Fit the canvas to the picture: `width` and `height` of the stored picture are stretched to what is shown.
  resize(width, height) {
    const ratio = devicePixelRatio || 1, shown = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(shown.width * ratio));
    this.canvas.height = Math.max(1, Math.round(shown.height * ratio));
    this.ratio = ratio;
    this.scale = [this.canvas.width / width, this.canvas.height / height];
  }

  // figures: what stands for this frame, each with `seen` (its label with corrections), `match` and `selected`.
  draw(figures, trails, colours) {
    const { context: g, canvas } = this;
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, canvas.width, canvas.height);
    this.figures = figures;
    const ordered = [...figures].sort((a, b) => a.selected - b.selected || b.match - a.match);
    for (const figure of ordered) {
      const look = colours(figure.seen.emotion);
      const faint = figure.match ? 1 : 0.25;
      if (this.layers.tracks && figure.match) this.#trail(figure, trails, look);
      if (this.layers.masks) this.#mask(figure, look, faint);
      if (this.layers.heads && figure.head) this.#box(figure.head, look, faint, [4, 3]);
      if (figure.selected && !this.layers.masks) this.#box(figure.box, look, faint, []);
    }
    if (!this.layers.names) return;
    const taken = [];
    for (const figure of [...ordered].reverse()) if (figure.match || figure.selected) this.#name(figure, colours(figure.seen.emotion), taken);
  }

  // The figure at a point of the page; those drawn last come first.
  at(event) {
    const shown = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - shown.left) / shown.width) * this.canvas.width / this.scale[0];
    const y = ((event.clientY - shown.top) / shown.height) * this.canvas.height / this.scale[1];
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    const hit = this.figures.find((figure) => this.context.isPointInPath(figure.path, x, y, "evenodd"));
    const inside = ([bx, by, w, h]) => x >= bx && x <= bx + w && y >= by && y <= by + h;
    return hit ?? this.figures.find((figure) => inside(figure.box)) ?? null;
  }

  #pixels(size) { return size * this.ratio; }

  #mask(figure, look, faint) {
    const g = this.context, nobody = figure.seen.nobody;
    const path = new Path2D();
    path.addPath(figure.path, new DOMMatrix([this.scale[0], 0, 0, this.scale[1], 0, 0]));
    g.globalAlpha = faint * (nobody ? 0.08 : figure.selected ? 0.34 : 0.24);
    g.fillStyle = look.colour;
    g.fill(path, "evenodd");
    g.lineJoin = "round";
    g.globalAlpha = faint * 0.55;
    g.strokeStyle = "#000";
    g.lineWidth = this.#pixels(figure.selected ? 5 : 3.4);
    g.stroke(path);
    g.globalAlpha = faint;
    g.setLineDash(look.dashed || nobody ? [this.#pixels(7), this.#pixels(5)] : []);
    g.strokeStyle = figure.selected ? "#fff" : look.colour;
    g.lineWidth = this.#pixels(figure.selected ? 3 : 1.8);
    g.stroke(path);
    if (figure.selected) {
      g.strokeStyle = look.colour;
      g.lineWidth = this.#pixels(1.4);
      g.stroke(path);
    }
    g.setLineDash([]);
    g.globalAlpha = 1;
  }

  #box([x, y, w, h], look, faint, dash) {
    const g = this.context;
    g.globalAlpha = faint;
    g.setLineDash(dash.map((part) => this.#pixels(part)));
    for (const [colour, width] of [["rgb(0 0 0 / .5)", 3.4], [look.colour, 1.8]]) {
      g.strokeStyle = colour;
      g.lineWidth = this.#pixels(width);
      g.strokeRect(x * this.scale[0], y * this.scale[1], w * this.scale[0], h * this.scale[1]);
    }
    g.setLineDash([]);
    g.globalAlpha = 1;
  }

  // Where the middle of a figure was in the frames before, thinner the longer ago.
  #trail(figure, trails, look) {
    const way = trails.flatMap((figures) => figures.filter((one) => one.track === figure.track && one.shot === figure.shot));
    const g = this.context;
    const middle = ({ box: [x, y, w, h] }) => [(x + w / 2) * this.scale[0], (y + h / 2) * this.scale[1]];
    const points = [...way.filter((one) => one.ordinal < figure.ordinal).map(middle), middle(figure)];
    g.lineCap = "round";
    for (let i = 1; i < points.length; i++) {
      g.globalAlpha = 0.15 + (0.75 * i) / points.length;
      for (const [colour, width] of [["rgb(0 0 0 / .45)", 5], [look.colour, 2.6]]) {
        g.strokeStyle = colour;
        g.lineWidth = this.#pixels(width);
        g.beginPath();
        g.moveTo(...points[i - 1]);
        g.lineTo(...points[i]);
        g.stroke();
      }
    }
    g.globalAlpha = 1;
    const [x, y] = points[points.length - 1];
    g.beginPath();
    g.arc(x, y, this.#pixels(3.6), 0, 7);
    g.fillStyle = look.colour;
    g.fill();
    g.strokeStyle = "#000";
    g.lineWidth = this.#pixels(1);
    g.stroke();
  }

  #name(figure, look, taken) {
    const g = this.context, seen = figure.seen, space = this.#pixels(7), height = this.#pixels(23);
    const certainty = seen.felt ? "✓" : percent(figure.certainty);
    const parts = [
      [seen.nobody ? "not a character" : seen.character, 700],
      [seen.named ? "✓" : "", 500],
      [seen.nobody ? "" : seen.emotion, 500],
      [seen.nobody || (seen.emotion === "uncertain" && !seen.felt) ? "" : certainty, 500],
      [this.layers.tracks ? `#${figure.track}` : "", 400],
    ].filter(([text]) => text);
    const font = (weight) => `${weight} ${this.#pixels(13)}px system-ui, sans-serif`;
    let width = space;
    for (const part of parts) {
      g.font = font(part[1]);
      part[0] = shortened(part[0]);
      part[2] = g.measureText(part[0]).width;
      width += part[2] + space;
    }
    const [bx, by, , bh] = figure.box;
    const x = Math.max(0, Math.min(bx * this.scale[0], this.canvas.width - width));
    let y = by * this.scale[1] - height - this.#pixels(5);
    if (y < 0) y = Math.min(Math.max(0, by * this.scale[1]) + this.#pixels(4), this.canvas.height - height);
    const clash = () => taken.find(([tx, ty, tw]) => x < tx + tw && tx < x + width && Math.abs(y - ty) < height);
    for (let tries = 0, other; tries < 8 && (other = clash()); tries++) y = other[1] + height + this.#pixels(2);
    y = Math.min(y, (by + bh) * this.scale[1], this.canvas.height - height);
    taken.push([x, y, width]);
    g.globalAlpha = 0.94;
    g.fillStyle = look.colour;
    g.beginPath();
    g.roundRect(x, y, width, height, this.#pixels(6));
    g.fill();
    g.globalAlpha = 1;
    g.strokeStyle = figure.selected ? "#fff" : "rgb(0 0 0 / .55)";
    g.lineWidth = this.#pixels(figure.selected ? 2 : 1);
    g.stroke();
    g.fillStyle = look.on;
    g.textBaseline = "middle";
    let at = x + space;
    for (const [text, weight, wide] of parts) {
      g.font = font(weight);
      g.fillText(text, at, y + height / 2 + this.#pixels(0.5));
      at += wide + space;
    }
  }
}

function shortened(text) {
  return text.length > 28 ? `${text.slice(0, 27)}…` : text;
}
