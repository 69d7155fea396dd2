// The timeline: who is on screen when and with what emotion, shots and matches; zoom, and click to seek.

import { clockText, last } from "./clock.js";

const NAME = 92, SHOTS = 14, LANE = 22, AXIS = 18, GAP = 3, OVERVIEW = 26;
const STEPS = [0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
const FIRST_S = 900; // so much of a long film is shown at first
// Over `uncertain` and colours that are used again, as in the report.
const STRIPES = (() => {
  const tile = new OffscreenCanvas(6, 6), g = tile.getContext("2d");
  g.strokeStyle = "rgb(0 0 0 / .38)";
  g.lineWidth = 1.6;
  for (const at of [-6, 0, 6]) {
    g.beginPath();
    g.moveTo(at - 1, 7);
    g.lineTo(at + 7, -1);
    g.stroke();
  }
  return tile;
})();

export class Timeline {
  constructor(parts, seek) {
    Object.assign(this, parts, { seek }); // overview, detail (canvases), lanes, playhead, tip
    this.film = null;
    this.now = 0;
    const point = (event) => this.#time(event.clientX - this.lanes.getBoundingClientRect().left);
    this.lanes.addEventListener("pointerdown", (event) => {
      if (!this.film || event.button) return;
      this.lanes.setPointerCapture(event.pointerId);
      this.seek(point(event));
    });
    this.lanes.addEventListener("pointermove", (event) => {
      if (!this.film) return;
      if (this.lanes.hasPointerCapture(event.pointerId)) this.seek(point(event));
      this.#tell(event, point(event));
    });
    this.lanes.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    this.lanes.addEventListener("wheel", (event) => {
      if (!this.film) return;
      event.preventDefault();
      const across = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (across) this.#look(this.from + (event.deltaX || event.deltaY) * this.#perPixel(), this.span);
      else this.zoom(Math.exp(event.deltaY / 400), point(event));
    }, { passive: false });
    const jump = (event) => {
      if (!this.film || !(event.buttons & 1)) return;
      const shown = this.overview.getBoundingClientRect();
      const time = ((event.clientX - shown.left - NAME) / (shown.width - NAME)) * this.film.clock.length;
      this.seek(Math.max(0, time));
      this.#look(time - this.span / 2, this.span);
    };
    this.overview.addEventListener("pointerdown", (event) => { this.overview.setPointerCapture(event.pointerId); jump(event); });
    this.overview.addEventListener("pointermove", jump);
  }

  open(film) {
    this.film = film;
    this.painted = null;
    this.matches = [];
    const { table } = film;
    this.first = Int32Array.from(table.labelled, (ordinal) => (ordinal < 0 ? 0 : last(table.seen_ordinal, ordinal - 1) + 1));
    this.from = 0;
    this.span = Math.min(film.clock.length, Math.max(FIRST_S, film.clock.length / 12));
    this.now = 0;
  }

  // Labels, corrections or what is looked for have changed.
  change(film) {
    if (this.film !== film) return;
    this.#order();
    this.paint();
  }

  // All is drawn anew, once for each refresh of the screen.
  paint() {
    if (!this.film || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.#paintOverview();
      this.draw();
    });
  }

  zoom(factor, around = this.now) {
    const span = Math.min(this.film.clock.length, Math.max(0.5, this.span * factor));
    this.#look(around - ((around - this.from) / this.span) * span, span);
  }

  all() { this.#look(0, this.film.clock.length); }

  // Follow the film: a frame is shown at this time, in seconds.
  follow(seconds, playing) {
    if (!this.film) return;
    this.now = seconds;
    const inside = seconds >= this.from && seconds <= this.from + this.span;
    if (!inside) this.#look(playing ? seconds - this.span * 0.1 : seconds - this.span / 2, this.span);
    else this.#place();
  }

  #look(from, span) {
    this.span = span;
    this.from = Math.min(Math.max(0, from), Math.max(0, this.film.clock.length - span));
    this.draw();
  }

  #width() { return Math.max(50, this.lanes.clientWidth - NAME); }
  #perPixel() { return this.span / this.#width(); }
  #x(seconds) { return NAME + (seconds - this.from) / this.#perPixel(); }
  #time(x) { return Math.min(Math.max(0, this.from + (x - NAME) * this.#perPixel()), this.film.clock.length); }

  // Lanes by time on screen, as the report has them; what nobody is called any more goes.
  #order() {
    const { table, facts, corrections, filter } = this.film;
    const seen = [], count = new Map(), counted = new Map(), stands = new Map();
    for (let i = 0; i < table.begin.length; i++) {
      const ordinal = table.labelled[i];
      stands.set(ordinal, (stands.get(ordinal) ?? 0) + table.end[i] - table.begin[i]);
    }
    for (let i = 0; i < table.seen_ordinal.length; i++) {
      const found = corrections.seen(
        table.seen_ordinal[i], table.seen_track[i], facts.characters[table.seen_character[i]], facts.emotions[table.seen_emotion[i]],
      );
      found.certainty = table.seen_certainty[i];
      found.match = filter.fits(found, found.certainty);
      seen.push(found);
      // Two of one name in a frame are on screen for its time once.
      const name = found.character, ordinal = table.seen_ordinal[i];
      if (found.nobody || counted.get(name) === ordinal) continue;
      counted.set(name, ordinal);
      count.set(name, (count.get(name) ?? 0) + (stands.get(ordinal) ?? 0));
    }
    this.seen = seen;
    this.names = [...count.keys()].sort((a, b) => count.get(b) - count.get(a) || (a < b ? -1 : 1));
    this.places = new Map(this.names.map((name, i) => [name, i]));
    this.matches = filter.active ? filter.stretches(this.film) : [];
  }

  // Draw the blocks of a stretch of time into a context: x(seconds), lane(i) -> [top, height]. Blocks that go on
  // from frame to frame are drawn as one.
  #blocks(g, from, to, x, lane) {
    const { table, clock, colours } = this.film;
    const open = new Map(); // by lane and place in it: [left, end, colour, match, top, height, striped]
    const stripes = g.createPattern(STRIPES, "repeat");
    const close = (block) => {
      g.globalAlpha = block[3] ? 1 : 0.18;
      g.fillStyle = block[2];
      const wide = Math.max(0.7, x(clock.seconds(block[1])) - block[0]);
      g.fillRect(block[0], block[4], wide, block[5]);
      if (!block[6]) return;
      g.fillStyle = stripes;
      g.fillRect(block[0], block[4], wide, block[5]);
    };
    for (let i = Math.max(0, last(table.begin, clock.at(from))); i < table.begin.length; i++) {
      if (clock.seconds(table.begin[i]) > to) break;
      const here = this.#here(i);
      for (let k = 0; k < here.length; k++) {
        const seen = here[k];
        if (seen.nobody) continue;
        let nth = 0, same = 0;
        for (let n = 0; n < here.length; n++) if (here[n].character === seen.character && !here[n].nobody) { same += 1; if (n < k) nth += 1; }
        const place = this.places.get(seen.character), key = place * 1024 + same * 32 + nth, { colour, dashed } = colours(seen.emotion);
        const block = open.get(key);
        if (block && block[1] === table.begin[i] && block[2] === colour && block[6] === dashed && block[3] === seen.match) {
          block[1] = table.end[i];
          continue;
        }
        if (block) close(block);
        const [top, height] = lane(place), share = height / same;
        open.set(key, [x(clock.seconds(table.begin[i])), table.end[i], colour, seen.match, top + share * nth, Math.max(1, share - (same > 1 ? 1 : 0)), dashed]);
      }
    }
    for (const block of open.values()) close(block);
    g.globalAlpha = 1;
  }

  // Who is seen at a sampled frame, with corrections.
  #here(i) {
    const { table } = this.film, found = [], ordinal = table.labelled[i];
    for (let n = this.first[i]; ordinal >= 0 && n < table.seen_ordinal.length && table.seen_ordinal[n] === ordinal; n++) found.push(this.seen[n]);
    return found;
  }

  #paintOverview() {
    this.overview.hidden = false;
    const { clock } = this.film, g = this.#fit(this.overview, OVERVIEW), width = this.#width();
    const look = this.#colours();
    const scale = width / clock.length, each = OVERVIEW / Math.max(1, this.names.length);
    g.fillStyle = look.lane;
    g.fillRect(NAME, 0, width, OVERVIEW);
    this.#blocks(g, 0, clock.length, (seconds) => NAME + seconds * scale, (i) => [i * each, Math.max(1, each - 0.5)]);
    g.fillStyle = look.ink;
    for (const [first, end] of this.matches) {
      const at = this.#stretch(first, end);
      g.fillRect(NAME + at[0] * scale, OVERVIEW - 3, Math.max(1.5, (at[1] - at[0]) * scale), 3);
    }
    this.painted = document.createElement("canvas");
    this.painted.width = this.overview.width;
    this.painted.height = this.overview.height;
    this.painted.getContext("2d").drawImage(this.overview, 0, 0);
  }

  #stretch(first, end) {
    const { table, clock } = this.film;
    return [clock.seconds(table.begin[first]), clock.seconds(table.end[end])];
  }

  draw() {
    if (!this.film) return;
    this.overview.hidden = this.span >= this.film.clock.length * 0.999; // it would say the same twice
    const { clock, facts } = this.film, look = this.#colours();
    const lanes = Math.max(1, this.names.length), row = SHOTS + GAP, marks = this.matches.length ? 8 : 0;
    const height = row + lanes * (LANE + GAP) + marks + AXIS;
    const g = this.#fit(this.detail, height), x = (seconds) => this.#x(seconds), right = NAME + this.#width();
    const to = this.from + this.span;
    g.save();
    g.beginPath();
    g.rect(NAME, 0, right - NAME, height);
    g.clip();
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    for (let i = clock.shot(clock.at(this.from)); i < facts.shots.length; i++) {
      const [, , start, end] = facts.shots[i], left = x(clock.seconds(start)), wide = x(clock.seconds(end)) - left;
      if (clock.seconds(start) > to) break;
      g.fillStyle = i % 2 ? look.lane : look.mark;
      g.fillRect(left, 0, wide, SHOTS);
      if (wide > 30) {
        g.fillStyle = look.soft;
        g.fillText(String(i), Math.max(left, NAME) + 4, SHOTS / 2 + 1);
      }
    }
    for (let i = 0; i < lanes; i++) {
      g.fillStyle = look.lane;
      g.fillRect(NAME, row + i * (LANE + GAP), right - NAME, LANE);
    }
    this.#blocks(g, this.from, to, x, (i) => [row + i * (LANE + GAP), LANE]);
    g.fillStyle = look.page;
    for (let i = clock.shot(clock.at(this.from)) + 1; i < facts.shots.length; i++) {
      const at = clock.seconds(facts.shots[i][2]);
      if (at > to) break;
      if (this.span < 400) g.fillRect(x(at) - 0.5, row, 1, lanes * (LANE + GAP));
    }
    const bottom = row + lanes * (LANE + GAP);
    g.fillStyle = look.ink;
    for (const [first, end] of this.matches) {
      const at = this.#stretch(first, end);
      if (at[1] >= this.from && at[0] <= to) g.fillRect(x(at[0]), bottom, Math.max(2, x(at[1]) - x(at[0])), 4);
    }
    const step = STEPS.find((one) => this.span / one <= this.#width() / 80) ?? 7200;
    g.strokeStyle = look.line;
    g.fillStyle = look.soft;
    for (let at = Math.ceil(this.from / step) * step; at <= to; at += step) {
      g.fillRect(x(at), bottom + marks, 1, 5);
      const text = step < 1 ? `${clockText(at)}.${String(Math.round((at % 1) * 100)).padStart(2, "0")}` : clockText(at + 1e-6);
      g.fillText(text, x(at) + 4, bottom + marks + AXIS / 2 + 1);
    }
    g.restore();
    g.textBaseline = "middle";
    g.fillStyle = look.soft;
    g.font = "11px system-ui, sans-serif";
    g.fillText("shots", 0, SHOTS / 2 + 1);
    if (marks) g.fillText("matches", 0, bottom + 3);
    g.fillStyle = look.ink;
    g.font = "600 13px system-ui, sans-serif";
    this.names.forEach((name, i) => g.fillText(this.#short(g, name), 0, row + i * (LANE + GAP) + LANE / 2));
    this.#place();
  }

  #short(g, name) {
    let text = name;
    while (text.length > 1 && g.measureText(text).width > NAME - 10) text = text.slice(0, -1);
    return text === name ? name : `${text.slice(0, -1)}…`;
  }

  // The playhead, here and in the overview, and the part of the film that is shown.
  #place() {
    if (!this.painted) return;
    const { clock } = this.film, scale = this.#width() / clock.length, g = this.overview.getContext("2d");
    this.playhead.style.transform = `translateX(${this.#x(this.now)}px)`;
    this.playhead.hidden = this.now < this.from || this.now > this.from + this.span;
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.overview.width, this.overview.height);
    g.drawImage(this.painted, 0, 0);
    g.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    const look = this.#colours();
    if (this.span < clock.length * 0.999) {
      const left = NAME + this.from * scale, right = left + Math.max(3, this.span * scale);
      g.fillStyle = look.veil;
      g.fillRect(NAME, 0, left - NAME, OVERVIEW);
      g.fillRect(right, 0, NAME + this.#width() - right, OVERVIEW);
      g.strokeStyle = look.ink;
      g.lineWidth = 1.5;
      g.strokeRect(left, 0.75, right - left, OVERVIEW - 1.5);
    }
    g.fillStyle = look.head;
    g.fillRect(NAME + this.now * scale - 1, 0, 2, OVERVIEW);
  }

  #tell(event, seconds) {
    const { clock, table, facts } = this.film, pts = clock.at(seconds);
    const i = last(table.begin, pts), ordinal = i >= 0 && pts < table.end[i] ? table.labelled[i] : -3;
    const shot = clock.shot(pts), lines = [`${clockText(seconds)} · shot ${shot}`];
    for (const seen of ordinal >= 0 ? this.#here(i) : []) {
      lines.push(seen.nobody ? "not a character" : `${seen.character}: ${seen.emotion} (${seen.felt ? "✓" : `${Math.round(seen.certainty * 100)} %`})`);
    }
    if (facts.shots.length && ordinal < -1) lines.push(ordinal === -2 ? "failed" : "not looked at");
    this.tip.textContent = lines.join("\n");
    this.tip.hidden = seconds < this.from || event.clientX < this.lanes.getBoundingClientRect().left + NAME;
    const box = this.tip.offsetParent.getBoundingClientRect(), wide = this.tip.offsetWidth;
    this.tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - wide - 4)}px`;
    this.tip.style.top = `${this.lanes.offsetTop - this.tip.offsetHeight - 4}px`;
  }

  #fit(canvas, height) {
    const ratio = devicePixelRatio || 1, width = this.lanes.clientWidth;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    return g;
  }

  #colours() {
    const style = getComputedStyle(document.documentElement);
    const names = ["page", "ink", "soft", "line", "lane", "mark", "veil", "head"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
}
