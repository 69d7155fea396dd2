// Labels with their outlines, fetched by window: stretches of the film of a fixed length, the last few kept.

import { get } from "./api.js";

const WINDOW = 240; // frames
const KEPT = 48;

export class Labels {
  constructor(film, arrived, failed) {
    Object.assign(this, { film, arrived, failed, frames: WINDOW });
    this.windows = new Map(); // number -> Map of ordinal -> figures, or null while on the way
  }

  // The characters of a labelled frame; null while they are on the way.
  of(ordinal) {
    if (ordinal < 0) return [];
    const number = Math.floor(ordinal / WINDOW);
    const found = this.#window(number);
    if (number + 1 <= (this.frames - 1) / WINDOW) this.#window(number + 1);
    return found && (found.get(ordinal) ?? []);
  }

  // Characters of the labelled frames just before one, as far as they are here: for the ways they took.
  before(ordinal, frames) {
    const found = [];
    for (let number = Math.floor(Math.max(0, ordinal - frames) / WINDOW); number <= ordinal / WINDOW; number++) {
      for (const [at, figures] of this.windows.get(number) ?? []) {
        if (at <= ordinal && at > ordinal - frames) found.push(figures);
      }
    }
    return found;
  }

  #window(number) {
    if (this.windows.has(number)) {
      const found = this.windows.get(number);
      this.windows.delete(number);
      this.windows.set(number, found); // used last
      return found;
    }
    this.windows.set(number, null);
    this.#fetch(number);
    return null;
  }

  async #fetch(number) {
    const first = number * WINDOW;
    try {
      const { figures } = await get(`/api/films/${this.film}/labels?first=${first}&last=${first + WINDOW - 1}`);
      const found = new Map();
      for (const figure of figures) {
        figure.path = outline(figure.outlines);
        if (!found.has(figure.ordinal)) found.set(figure.ordinal, []);
        found.get(figure.ordinal).push(figure);
      }
      this.windows.set(number, found);
      for (const old of [...this.windows.keys()].slice(0, -KEPT)) this.windows.delete(old);
      this.arrived();
    } catch (error) {
      this.windows.delete(number);
      this.failed(error);
    }
  }
}

// A mask as a path in pixels of the stored picture, with its parts and holes (filled by the even-odd rule).
function outline(outlines) {
  const path = new Path2D();
  for (const points of outlines) {
    path.moveTo(points[0] + 0.5, points[1] + 0.5); // the middle of the pixel
    for (let i = 2; i < points.length; i += 2) path.lineTo(points[i] + 0.5, points[i + 1] + 0.5);
    path.closePath();
  }
  return path;
}
