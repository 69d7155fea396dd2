// Which frames are looked for: by character, emotion and certainty, as labelled or as corrected.

export class Filter {
  constructor() {
    this.character = this.emotion = "";
    this.least = 0;
    this.most = 1;
  }

  get active() { return Boolean(this.character || this.emotion || this.least > 0 || this.most < 1); }

  fits(seen, certainty) {
    if (seen.nobody && this.active) return false;
    if (this.character && seen.character !== this.character) return false;
    if (this.emotion && seen.emotion !== this.emotion) return false;
    // Rounded as it is shown.
    const shown = Math.round(certainty * 100) / 100;
    return shown >= this.least && shown <= this.most;
  }

  // Where it is met: stretches of sampled frames of one shot, [first, last] as places among the sampled frames.
  stretches(film) {
    const { table, facts, corrections } = film;
    const hit = new Set();
    for (let i = 0; i < table.seen_ordinal.length; i++) {
      if (hit.has(table.seen_ordinal[i])) continue;
      const seen = corrections.seen(
        table.seen_ordinal[i], table.seen_track[i], facts.characters[table.seen_character[i]], facts.emotions[table.seen_emotion[i]],
      );
      if (this.fits(seen, table.seen_certainty[i])) hit.add(table.seen_ordinal[i]);
    }
    const found = [];
    let shot = -1, running = false;
    for (let i = 0, now = 0; i < table.ordinal.length; i++) {
      while (now + 1 < facts.shots.length && facts.shots[now][1] <= table.ordinal[i]) now += 1;
      const met = hit.has(table.labelled[i]);
      if (met && running && shot === now) found[found.length - 1][1] = i;
      else if (met) found.push([i, i]);
      running = met;
      shot = now;
    }
    return found;
  }
}
