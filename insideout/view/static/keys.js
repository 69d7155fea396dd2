// One key, one thing. Keys are left alone where something is typed or chosen.

const TYPED = new Set(["text", "search"]);

export function bindKeys(actions) {
  document.addEventListener("keydown", (event) => {
    const target = event.target, kind = target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (kind === "SELECT" || kind === "TEXTAREA" || (kind === "INPUT" && TYPED.has(target.type))) {
      if (event.key === "Escape") document.getElementById("stage").focus();
      return;
    }
    if (event.key === "?") return actions.help();
    if (!actions.ready()) return;
    // Radio buttons and sliders have arrows of their own, and the space bar presses buttons.
    const arrows = kind === "INPUT";
    if (event.key === " " && (kind === "BUTTON" || kind === "INPUT")) return;
    const what = command(event, actions, arrows);
    if (what) {
      event.preventDefault();
      what();
    }
  });
}

function command(event, actions, arrows) {
  const { key, shiftKey } = event;
  if (/^[1-9]$/.test(key)) return () => actions.emotion(Number(key) - 1);
  switch (key) {
    case " ": return actions.play;
    case "ArrowLeft": return arrows ? null : () => (shiftKey ? actions.shot(-1) : actions.step(-1));
    case "ArrowRight": return arrows ? null : () => (shiftKey ? actions.shot(1) : actions.step(1));
    case "Home": return arrows ? null : actions.first;
    case "End": return arrows ? null : actions.last;
    case "n": return () => actions.match(1);
    case "N": return () => actions.match(-1);
    case "ArrowUp": return arrows ? null : () => actions.turn(-1);
    case "ArrowDown": return arrows ? null : () => actions.turn(1);
    case "x": return actions.nobody;
    case "u": return actions.undo;
    case "t": return actions.scope;
    case "m": return actions.masks;
    case "+": case "=": return () => actions.zoom(0.5);
    case "-": return () => actions.zoom(2);
    case "0": return actions.all;
    default: return /^[a-z]$/.test(key) && !event.repeat ? () => actions.name(key) : null;
  }
}
