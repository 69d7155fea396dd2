// The picture: the browser's own video, or frames that the server decodes where the video will not do.
//
// The browser tells which frame it shows by requestVideoFrameCallback. After quick seeks Chromium may name the new
// frame and leave the old one on screen, so at rest the frame is copied onto a canvas, which gets the one named.
// Where the browser stays at another frame than was asked for, the server decodes that one, and it is laid on top.

// Begin to load a film, before anything else is known of it; tells of the first frame that is shown.
export function begin(video, film) {
  if (!("requestVideoFrameCallback" in video)) return null;
  video.hidden = false;
  video.src = `/films/${film}/video`;
  return new Promise((done) => video.requestVideoFrameCallback((now, meta) => done(meta)));
}

export class Picture {
  constructor({ video, frozen, still }, first, clock, film, report) {
    Object.assign(this, { video, frozen, still, clock, film, report });
    this.mode = "video";
    this.frame = null;
    this.playing = false;
    this.wanted = null; // the place that was asked for last, until it is shown
    this.exactly = null;
    this.turn = 0;
    this.ended = new AbortController();
    this.began = new Promise((done) => { this.begin = done; }); // the first picture is there, or there is no video
    const heard = (name, what) => video.addEventListener(name, what, { signal: this.ended.signal });
    heard("error", () => this.useStills("This browser cannot play this film"));
    heard("loadeddata", () => this.#loaded());
    if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) queueMicrotask(() => this.#loaded());
    heard("play", () => this.#playing(true));
    heard("pause", () => { this.#playing(false); if (this.mode === "video" && !video.seeking) this.#freeze(); });
    heard("seeked", () => this.#settle());
    first?.then((meta) => this.#first(meta));
    // What has happened before anybody listened; the caller must have got this object first.
    queueMicrotask(() => {
      if (!first) this.useStills("This browser does not tell which frame it shows");
      else if (video.error) this.useStills("This browser cannot play this film");
    });
  }

  close() {
    this.ended.abort();
    this.turn += 1;
    this.frozen.hidden = this.still.hidden = true;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }

  useStills(why) {
    if (this.mode !== "video" || this.ended.signal.aborted) return;
    this.mode = "stills";
    this.begin();
    this.playing = false;
    this.video.removeAttribute("src");
    this.video.hidden = this.frozen.hidden = true;
    this.report.mode(`${why}: it is shown as single pictures, exact but without sound.`);
    this.seek(this.wanted ?? this.frame?.place ?? 0);
  }

  useNone(why) {
    this.mode = "none";
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.hidden = this.frozen.hidden = this.still.hidden = true;
    this.report.mode(why);
    this.seek(this.wanted ?? 0);
  }

  // Play or pause; at the last frame, begin again.
  toggle() {
    this.exactly = null;
    const over = !this.playing && (this.video.ended || (this.clock.counted && (this.wanted ?? this.frame?.place) === this.clock.pts.length - 1));
    if (this.mode === "video") {
      if (over) this.seek(0);
      if (this.video.paused) this.video.play().catch(() => {}); else this.video.pause();
    } else if (this.mode === "stills") {
      this.#playing(!this.playing);
      if (this.playing && over) this.#fetch(0).then(() => this.#run());
      else if (this.playing) this.#run();
    }
  }

  pause() {
    if (this.mode === "video") this.video.pause(); else this.#playing(false);
  }

  // Show a frame by its number; one that is not known yet is shown once all are counted.
  seekOrdinal(ordinal) {
    this.seek(this.clock.place(ordinal));
    if (!this.clock.counted) this.exactly = ordinal;
  }

  // Show the frame at a place among those known.
  seek(place) {
    this.exactly = null;
    place = Math.min(Math.max(0, place), this.clock.pts.length - 1);
    this.wanted = place;
    this.still.hidden = this.mode !== "stills";
    if (this.mode === "video") this.video.currentTime = this.clock.mediaTime(place);
    else if (this.mode === "stills") this.#fetch(place);
    else this.#show(this.clock.frame(place));
  }

  step(frames) {
    this.pause();
    this.seek((this.wanted ?? this.frame?.place ?? 0) + frames);
  }

  // All frames are counted now: places have changed.
  recount() {
    if (this.exactly !== null) return this.seek(this.exactly);
    if (this.wanted !== null) this.wanted = this.clock.table.ordinal[this.wanted];
    if (this.frame) this.#show(this.clock.frame(this.clock.shown(this.frame.pts)));
  }

  #playing(now) {
    this.playing = now;
    this.report.playing(now);
  }

  #loaded() {
    if (!this.video.videoWidth) this.useStills("This browser cannot play the pictures of this film");
  }

  // The first frame that is shown tells what the browser counts from: from 0, or from the first frame.
  #first(meta) {
    if (this.ended.signal.aborted) return;
    const clock = this.clock;
    const ahead = meta.mediaTime - clock.start * clock.base;
    if (this.wanted === null && Math.abs(ahead) > 0.001) clock.offset = ahead;
    this.#presented(meta);
  }

  #presented(meta) {
    if (this.ended.signal.aborted || this.mode !== "video") return;
    this.video.requestVideoFrameCallback((now, next) => this.#presented(next));
    const frame = this.clock.presented(meta.mediaTime);
    this.presentedPlace = frame.place;
    if (!this.video.seeking && this.video.paused && this.wanted !== null && this.wanted !== frame.place) return;
    if (this.wanted === frame.place || !this.video.seeking) this.wanted = null;
    this.still.hidden = true;
    this.#freeze();
    this.#show(frame);
  }

  // At rest, show a copy of the video's frame; while it plays, the video itself.
  #freeze() {
    const { video, frozen } = this;
    frozen.hidden = !video.paused;
    if (frozen.hidden) return;
    if (frozen.width !== video.videoWidth || frozen.height !== video.videoHeight) {
      frozen.width = video.videoWidth;
      frozen.height = video.videoHeight;
    }
    frozen.getContext("2d").drawImage(video, 0, 0, frozen.width, frozen.height);
  }

  // A seek has ended: where the browser does not show what was asked for, the server does.
  #settle() {
    const wanted = this.wanted, turn = ++this.turn;
    if (wanted === null) return;
    setTimeout(() => {
      if (turn !== this.turn || this.wanted !== wanted || this.mode !== "video" || !this.video.paused) return;
      if (this.presentedPlace === wanted) {
        this.wanted = null;
        this.#freeze();
        this.#show(this.clock.frame(wanted));
      } else if (this.clock.counted) this.#fetch(wanted);
    }, 150);
  }

  async #fetch(place) {
    const turn = ++this.turn, ordinal = this.clock.ordinal(place);
    const next = new Image();
    next.src = `/films/${this.film}/frames/${ordinal}.jpg`;
    try {
      await next.decode();
    } catch {
      if (turn === this.turn) this.report.missing(ordinal);
      this.still.removeAttribute("src");
    }
    if (turn !== this.turn || this.ended.signal.aborted) return false;
    if (next.naturalWidth) {
      this.still.src = next.src;
      await this.still.decode().catch(() => {});
      if (turn !== this.turn) return false;
    }
    this.still.hidden = !next.naturalWidth;
    if (this.wanted === place) this.wanted = null;
    this.#show(this.clock.frame(this.clock.place(ordinal)));
    return true;
  }

  // Play single pictures: those that are there in time.
  async #run() {
    const began = performance.now(), from = this.frame?.pts ?? this.clock.start;
    const ms = (pts) => (pts - from) * this.clock.base * 1000;
    while (this.playing && this.mode === "stills") {
      const now = performance.now() - began;
      const place = this.clock.shown(from + now / 1000 / this.clock.base);
      if (place !== this.frame?.place) {
        if (!(await this.#fetch(place))) return this.#playing(false);
      } else if (place === this.clock.pts.length - 1) {
        return this.#playing(false);
      } else {
        await new Promise((done) => setTimeout(done, Math.max(0, ms(this.clock.pts[place + 1]) - now)));
      }
    }
  }

  #show(frame) {
    this.begin();
    this.frame = frame;
    this.report.frame(frame);
  }
}
