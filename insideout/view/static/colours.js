// The colours of emotions: those of the report, by their order in the pack. A name always stands beside them.

const style = getComputedStyle(document.documentElement);
const COLOURS = 8;

export function palette(emotions) {
  const found = new Map();
  emotions.forEach((name, i) => {
    const kind = name === "uncertain" ? "u" : String(i % COLOURS);
    found.set(name, {
      name,
      colour: style.getPropertyValue(`--e${kind}`).trim(),
      on: style.getPropertyValue(`--on${kind}`).trim(),
      dashed: kind === "u" || i >= COLOURS, // classes beyond the eighth take the colours again
    });
  });
  return (name) => found.get(name) ?? { name, colour: style.getPropertyValue("--eu").trim(), on: "#000", dashed: true };
}

// Emotions as a person reads them: "Happy", "uncertain".
export function percent(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  return share >= 0.995 && share < 1 ? ">99 %" : `${Math.round(100 * share)} %`;
}

// A swatch of an emotion: striped where it is `uncertain`, or its colour is that of another one too.
export function paint(swatch, look) {
  swatch.style.backgroundColor = look.colour;
  swatch.classList.toggle("striped", look.dashed);
}

export function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value; else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children); // strings become text, never markup
  return made;
}
