// Who is in the frame, beside the picture, and what can be said of the one who is selected.

import { element, paint, percent } from "./colours.js";

const TAKEN = new Set("mntux".split("")); // letters that are keys of something else

export function letters(names) {
  const found = new Map();
  for (const name of names) {
    const free = [...name.toLowerCase()].find((letter) => /^[a-z]$/.test(letter) && !TAKEN.has(letter) && !found.has(letter));
    if (free) found.set(free, name);
  }
  return found;
}

export class Panel {
  constructor(parts, actions) {
    Object.assign(this, parts, { actions }); // figures, nobody, correction, whom, emotions, names, known
    this.shown = "";
  }

  // figures with `seen`, `match` and `selected`; `state` says why there may be none.
  draw(figures, state, film) {
    const key = JSON.stringify([state, figures.map((f) => [f.ordinal, f.track, f.seen.row?.at, f.match, f.selected]), film.version]);
    if (key === this.shown) return;
    this.shown = key;
    const focused = this.figures.contains(document.activeElement);
    this.figures.replaceChildren(...figures.map((figure) => this.#figure(figure, film)));
    if (focused) this.figures.querySelector("[aria-checked=true]")?.focus();
    this.nobody.textContent = figures.length ? "" : state;
    const selected = figures.find((figure) => figure.selected);
    this.correction.hidden = !selected;
    if (selected) this.#choices(selected, film);
  }

  #figure(figure, film) {
    const { seen } = figure, look = film.colours(seen.emotion);
    const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
    paint(swatch, look);
    const bar = element("i", { class: "meter", "aria-hidden": "true" }, element("i"));
    bar.firstChild.style.width = `${100 * figure.certainty}%`;
    bar.firstChild.style.background = look.colour;
    const what = seen.nobody ? "not a character" : `${seen.emotion}${seen.felt ? "" : `, ${percent(figure.certainty)}`}`;
    const model = seen.corrected ? `model: ${figure.character}, ${figure.emotion}` : `track ${figure.track}: mostly ${figure.track_emotion}`;
    const card = element(
      "button",
      {
        type: "button", role: "radio", "aria-checked": String(figure.selected), tabindex: figure.selected ? "0" : "-1",
        class: `figure${figure.match ? "" : " faint"}`, "data-track": figure.track,
      },
      swatch,
      element("b", seen.named && !seen.nobody ? { class: "said" } : {}, seen.character),
      element("span", seen.felt || seen.nobody ? { class: "said" } : {}, what),
      bar,
      element("small", {}, model),
    );
    card.addEventListener("click", () => this.actions.select(figure.track));
    return card;
  }

  #choices(figure, film) {
    const { seen } = figure;
    this.whom.textContent = seen.character;
    this.emotions.replaceChildren(
      ...film.emotions.map((name, i) => {
        const look = film.colours(name), share = figure.probabilities[name];
        const bar = element("i", { class: "share", "aria-hidden": "true" });
        bar.style.width = `${100 * (share ?? 0)}%`;
        bar.style.background = look.colour;
        const choice = element(
          "button",
          { type: "button", class: "choice", "aria-pressed": String(!seen.nobody && seen.emotion === name), "data-emotion": name },
          bar,
          element("kbd", {}, i < 9 ? String(i + 1) : " "),
          element("span", {}, name),
          element("small", {}, share === undefined ? "" : percent(share)),
        );
        choice.addEventListener("click", () => this.actions.say({ emotion: name }));
        return choice;
      }),
    );
    const byName = new Map([...film.letters].map(([letter, name]) => [name, letter]));
    const name = (text, key, pressed, what) => {
      const choice = element("button", { type: "button", class: "choice name", "aria-pressed": String(pressed) }, element("kbd", {}, key ?? " "), element("span", {}, text));
      choice.addEventListener("click", () => this.actions.say(what));
      return choice;
    };
    this.names.replaceChildren(
      ...film.names.map((text) => name(text, byName.get(text), !seen.nobody && seen.character === text, { as_character: text })),
      name("not a character", "x", seen.nobody, { nobody: true }),
    );
    this.known.replaceChildren(...film.names.map((text) => element("option", { value: text })));
  }
}
