// The film's time: which frame has which time stamp, and which labelled frame stands for it.
//
// Time stamps (pts) are whole numbers in units of the film's time base. Until all frames are counted, only
// the sampled ones are known; which labels stand at a time stamp is exact from the start.

// Browsers tell the time of a frame in microseconds, cut off.
const SLACK_S = 3e-6;

export class Clock {
  constructor(facts, table) {
    const [num, den] = facts.time_base;
    this.base = num / den;
    this.table = table;
    this.shots = facts.shots;
    this.start = facts.shots.length ? facts.shots[0][2] : 0;
    this.end = facts.shots.length ? facts.shots[facts.shots.length - 1][3] : this.start + 1;
    this.frames = facts.frames;
    this.pts = table.pts;
    this.ordinals = table.ordinal;
    this.counted = false; // whether every frame of the film is known
    this.offset = 0; // what the browser's time is ahead of the film's, seconds
  }

  complete(index) {
    this.pts = index.pts;
    this.labelled = index.labelled;
    this.ordinals = null;
    this.counted = true;
  }

  // Seconds since the first frame, for display.
  seconds(pts) { return (pts - this.start) * this.base; }
  get length() { return this.seconds(this.end); }
  at(seconds) { return this.start + seconds / this.base; }
  ordinal(place) { return this.ordinals ? this.ordinals[place] : place; }
  place(ordinal) { return this.ordinals ? last(this.ordinals, ordinal) : ordinal; }

  // The place, among the frames known, of the one that is shown at a time stamp.
  shown(pts) { return Math.max(0, last(this.pts, pts + SLACK_S / this.base)); }

  // The frame that the browser says it shows, by its media time.
  presented(mediaTime) {
    const pts = (mediaTime - this.offset) / this.base;
    const place = this.shown(pts + 0.5 * Math.min(1, 0.0005 / this.base));
    return this.frame(place, this.counted ? this.pts[place] : pts);
  }

  frame(place, pts = this.pts[place]) {
    return { place, ordinal: this.ordinal(place), pts, labelled: this.stands(place, pts) };
  }

  // A time within a frame, at which the browser is asked to show it: away from both its ends.
  mediaTime(place) {
    const gap = place + 1 < this.pts.length ? this.pts[place + 1] - this.pts[place] : this.end - this.pts[place];
    return (this.pts[place] + gap * (this.counted ? 0.5 : 0.1)) * this.base + this.offset;
  }

  // The labelled frame whose labels stand; -1: nobody is in it, -2: it failed, -3: it was not looked at.
  stands(place, pts) {
    if (this.counted) return this.labelled[place];
    const found = last(this.table.begin, pts + SLACK_S / this.base);
    return found >= 0 && pts < this.table.end[found] ? this.table.labelled[found] : -3;
  }

  // The shot at a time stamp: its place among the shots.
  shot(pts) {
    let low = 0, high = this.shots.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.shots[middle][2] <= pts + SLACK_S / this.base) low = middle; else high = middle - 1;
    }
    return low;
  }
}

// The last place in an ascending array whose value is not above; -1 if there is none.
export function last(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1; else high = middle;
  }
  return low - 1;
}

export function clockText(seconds) {
  const whole = Math.floor(Math.max(0, seconds) + 1e-6);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (h ? `${h}:${String(m).padStart(2, "0")}` : `${m}`) + `:${String(s).padStart(2, "0")}`;
}

export function timecode(seconds) {
  return `${clockText(seconds)}.${String(Math.floor((Math.max(0, seconds) % 1) * 1000 + 1e-3)).padStart(3, "0")}`;
}
