// What people said of labels: kept on the server at once, shown in place of the model's label.

import { get, post } from "./api.js";

const NOBODY = "-";

export class Corrections {
  constructor(film, changed) {
    Object.assign(this, { film, changed });
    this.path = `/api/films/${film}/annotations`;
    this.rows = new Map();
    this.turn = 0;
    this.done = []; // what this tab has said, for undo
  }

  async load() {
    const turn = this.turn;
    const { rows } = await get(this.path);
    if (turn === this.turn) this.#take(rows); else await this.load(); // something was said meanwhile
  }

  // A label as it counts: the model's, or what was said instead.
  seen(ordinal, track, character, emotion) {
    const row = this.rows.get(`${ordinal}/${track}`);
    if (!row) return { character, emotion, corrected: false, named: false, felt: false, nobody: false };
    return {
      character: row.as_character && row.as_character !== NOBODY ? row.as_character : character,
      emotion: row.emotion || emotion,
      corrected: Boolean(row.emotion || row.as_character),
      named: Boolean(row.as_character), // what was said: the name, the emotion, or both
      felt: Boolean(row.emotion),
      nobody: row.as_character === NOBODY,
      row,
    };
  }

  // Say something of a figure: {emotion}, {as_character} or {nobody}; in this frame, or in all its track.
  async say(figure, scope, what, split) {
    const body = { target: { ordinal: figure.ordinal, track: figure.track }, scope, split: split || null };
    if ("emotion" in what) body.emotion = what.emotion;
    if ("as_character" in what) body.as_character = what.as_character;
    if (what.nobody) body.as_character = NOBODY;
    this.turn += 1;
    const answer = await post(this.path, body);
    this.turn += 1;
    this.done.push({ ...answer, figure });
    for (const row of answer.after) this.#put(row);
    this.changed();
    return answer.after.length;
  }

  async undo() {
    const taken = this.done.pop();
    if (!taken) return null;
    const { before, after, figure } = taken;
    this.#take((await post(`${this.path}/undo`, { before, after })).rows);
    return figure;
  }

  async assign(shot, split) {
    this.#take((await post(`/api/films/${this.film}/split`, { shot, split })).rows);
  }

  split(shot) {
    for (const row of this.rows.values()) if (row.shot === shot) return row.split;
    return "";
  }

  #put(row) {
    const key = `${row.ordinal}/${row.track}`;
    if (row.emotion || row.as_character) this.rows.set(key, row); else this.rows.delete(key);
  }

  #take(rows) {
    this.rows.clear();
    for (const row of rows) this.#put(row);
    this.changed();
  }
}
