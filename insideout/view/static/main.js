// Ties the page together: opens a film, and keeps picture, overlay, timeline and panel at the same frame.

import { columns, get, Refused } from "./api.js";
import { Clock, timecode } from "./clock.js";
import { element, paint, palette } from "./colours.js";
import { Corrections } from "./corrections.js";
import { Filter } from "./filter.js";
import { bindKeys } from "./keys.js";
import { Labels } from "./labels.js";
import { Overlay } from "./overlay.js";
import { letters, Panel } from "./panel.js";
import { begin, Picture } from "./picture.js";
import { Timeline } from "./timeline.js";

const by = (id) => document.getElementById(id);
const TRAIL = 96; // frames of a track's way

const overlay = new Overlay(by("overlay"));
const filter = new Filter();
let run, film, picture, frame, selected, speaking;
let meant = null; // whom a name that is being typed is for
let about = ""; // the shot and track that 'whole track' is about

const timeline = new Timeline(
  { overview: by("overview"), detail: by("detail"), lanes: by("lanes"), playhead: by("playhead"), tip: by("tip") },
  (seconds) => picture.seek(film.clock.shown(film.clock.at(seconds))),
);
const panel = new Panel(
  { figures: by("figures"), nobody: by("nobody"), correction: by("correction"), whom: by("whom"), emotions: by("emotions"), names: by("names"), known: by("known-names") },
  { select, say },
);

function notice(text, alarm = false) {
  by("notice").textContent = text;
  by("notice").classList.toggle("alarm", alarm);
}

// What became of what was pressed: it stays until another frame is shown.
let toldAt = null;
function tell(text, at = picture?.playing ? null : frame?.ordinal ?? null) {
  by("saved").textContent = text;
  toldAt = at; // null: wherever the film comes to rest
}

// Marks in the browser's own timeline, for whoever measures.
function once(name) {
  if (!performance.getEntriesByName(name).length) performance.mark(name);
}

const failed = (error) => notice(error.message, true);

// Opens at a frame; without one at the first that has a label.
async function openFilm(id, asked = null) {
  const ordinal = asked ?? 0;
  picture?.close();
  picture = film = frame = selected = meant = timeline.film = null;
  by("other").value = "";
  tell("");
  document.body.dataset.state = "opening";
  for (const name of ["counted", "drawn", "ordinal", "labelled"]) delete by("stage").dataset[name];
  by("waiting").hidden = false;
  notice("");
  // All at once: what is slowest is what the browser does with the film.
  const path = `/api/films/${id}`, first = begin(by("video"), id);
  const corrections = new Corrections(id, changed), labels = new Labels(id, show, failed);
  labels.of(ordinal);
  const [facts, table] = await Promise.all([get(path), columns(`${path}/table`), corrections.load()]);
  const clock = new Clock(facts, table);
  labels.frames = facts.frames;
  const opened = film = {
    facts, table, clock, corrections, filter, labels, version: 0,
    colours: palette(facts.emotions),
    emotions: [...new Set([...run.emotions, ...facts.emotions])].filter((name) => name !== "uncertain"),
  };
  names();
  by("title").textContent = facts.name;
  document.title = `${facts.name} – insideout view`;
  choices();
  fit();
  picture = new Picture({ video: by("video"), frozen: by("frozen"), still: by("still") }, first, clock, id, {
    frame: shown,
    playing,
    mode: (why) => { by("stage").dataset.mode = picture.mode; notice(why, picture.mode === "none"); fit(); },
    missing: (at) => notice(`Frame ${at} cannot be decoded: its data is damaged or missing.`, true),
  });
  by("stage").dataset.mode = picture.mode;
  if (facts.problem) picture.useNone(facts.problem);
  else count(picture, path);
  if (ordinal) picture.seekOrdinal(ordinal);
  await Promise.race([picture.began, new Promise((done) => setTimeout(done, 1500))]);
  if (film !== opened) return;
  timeline.open(film);
  const labelled = table.labelled.findIndex((source) => source >= 0);
  if (asked === null && labelled > 0 && picture.wanted === null && !picture.playing && !frame?.place) picture.seekOrdinal(table.ordinal[labelled]);
  filtered();
  if (frame) timeline.follow(clock.seconds(frame.pts), picture.playing);
}

// Time stamps of all frames take the server a moment; until then only the sampled frames are known by number.
async function count(opened, path) {
  try {
    // The first picture comes first: counting keeps the server busy.
    await Promise.race([opened.began, new Promise((done) => setTimeout(done, 1500))]);
    const index = await columns(`${path}/index`);
    if (opened !== picture) return;
    film.clock.complete(index);
    picture.recount();
    once("counted");
    by("stage").dataset.counted = "yes";
    if (index.headers.get("X-Stamps-Tell") === "no") picture.useStills("The time stamps of this film do not tell its frames apart");
    const { problem } = await get(`${path}/check`);
    if (problem) throw new Refused(problem);
  } catch (error) {
    if (opened !== picture) return;
    picture.useNone(error.message);
    notice(error.message, true);
  }
}

// A frame is on screen.
function shown(found) {
  frame = found;
  once("picture");
  by("waiting").hidden = true;
  document.body.dataset.state = "shown";
  show();
  const { clock } = film, seconds = clock.seconds(found.pts);
  timeline.follow(seconds, picture?.playing);
  const shot = clock.shot(found.pts);
  const at = found.ordinal < 0 ? "–" : `${clock.counted || picture?.mode === "none" ? "" : "≈ "}${found.ordinal.toLocaleString("en")}`;
  by("where").replaceChildren(
    element("b", {}, timecode(seconds)), ` / ${timecode(clock.length).slice(0, -4)}`,
    element("span", {}, `frame ${at}`), element("span", {}, `shot ${shot}`),
  );
  if (!picture?.playing) settled(seconds, shot);
}

function settled(seconds, shot) {
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    if (!frame || !film) return;
    const who = (figures() ?? []).map((one) => `${one.seen.character} ${one.seen.emotion}`).join(", ");
    const lanes = by("lanes");
    lanes.setAttribute("aria-valuemax", film.clock.length.toFixed(2));
    lanes.setAttribute("aria-valuenow", seconds.toFixed(2));
    const said = `${timecode(seconds)}, frame ${frame.ordinal}, shot ${shot}: ${who || "nobody"}`;
    lanes.setAttribute("aria-valuetext", said);
    by("spoken").textContent = said;
    if (toldAt === null) toldAt = frame.ordinal; else if (toldAt !== frame.ordinal) tell("");
    history.replaceState(null, "", `#${film.facts.film}/${frame.ordinal}`);
  }, 200);
}

// The labels that stand for the frame on screen; null while they are on the way.
function figures() {
  const found = film.labels.of(frame.labelled);
  if (found === null) return null;
  if (!found.some((one) => one.track === selected)) {
    const area = ({ box }) => box[2] * box[3];
    selected = [...found].sort((a, b) => area(b) - area(a))[0]?.track ?? selected;
  }
  return found.map((one) => {
    const seen = film.corrections.seen(one.ordinal, one.track, one.character, one.emotion);
    return Object.assign(one, { seen, match: filter.fits(seen, one.certainty), selected: one.track === selected });
  });
}

function show() {
  if (!film || !frame) return;
  const stage = by("stage").dataset, found = figures();
  overlay.draw(found ?? [], film.labels.before(frame.labelled, TRAIL), film.colours);
  Object.assign(stage, { ordinal: frame.ordinal, labelled: frame.labelled, drawn: found ? frame.labelled : "waiting" });
  if (found === null) {
    if (!picture?.playing) panel.draw([], "Labels are on their way …", film);
    return;
  }
  once("labels");
  const why = { "-1": "Nobody.", "-2": "Not known: this frame failed.", "-3": "Not known: this shot was not looked at." };
  aim(found);
  panel.draw(found, why[frame.labelled] ?? "Nobody.", film);
  if (found.length) by("split").value = film.corrections.split(found[0].shot) || chosenSplit.get(found[0].shot) || "train";
}

// What is said next is about one figure: a new one begins with 'this frame', and a name half typed stays behind.
function aim(found) {
  const now = found.find((one) => one.selected);
  const next = now ? `${now.shot}/${now.track}` : "";
  if (next !== about) document.querySelector("input[name=scope][value=frame]").checked = true;
  about = next;
  if (document.activeElement !== by("other") && !by("other").value) meant = null;
  else if (!by("other").value.trim()) meant = now ?? null;
  else if (meant && (meant.ordinal !== now?.ordinal || meant.track !== now.track)) {
    tell(`Not saved: '${by("other").value.trim()}' was for ${meant.seen.character} in frame ${meant.ordinal}.`);
    by("other").value = "";
    meant = null;
  }
}

const chosenSplit = new Map();

function changed() {
  if (!film || !picture) return;
  film.version += 1;
  const before = film.names.length;
  names();
  if (film.names.length !== before) choices();
  by("undo").disabled = !film.corrections.done.length;
  filtered();
}

// Names that can be given: those of the pack, of the film, and those that were given before.
function names() {
  const given = [...film.corrections.rows.values()].map((row) => row.as_character);
  const all = new Set([...run.characters, ...film.facts.characters, ...given]);
  all.delete("-");
  all.delete("");
  film.names = [...all];
  film.letters = letters(film.names);
  by("letters").replaceChildren(...[...film.letters.keys()].flatMap((letter) => [element("kbd", {}, letter), " "]));
}

function select(track) {
  picture.pause();
  selected = track;
  show();
}

function turn(by_) {
  const found = figures();
  if (!found?.length) return;
  const at = found.findIndex((one) => one.track === selected);
  select(found[(at + by_ + found.length) % found.length].track);
}

async function say(what, chosen = null) {
  if (picture.playing) {
    // Who is selected changes while the film plays: first it stands still, then it is said.
    picture.pause();
    return tell("Paused, nothing is saved yet: press again to correct who is selected now.", null);
  }
  const figure = chosen ?? figures()?.find((one) => one.selected);
  if (!figure) return tell("Nobody is in this frame to be corrected.");
  const scope = document.querySelector("input[name=scope]:checked").value;
  try {
    const rows = await film.corrections.say(figure, scope, what, chosenSplit.get(figure.shot));
    const said = what.nobody ? "not a character" : what.emotion ?? what.as_character;
    const where = scope === "frame" ? `frame ${figure.ordinal}` : `track ${figure.track}, ${rows} frame${rows === 1 ? "" : "s"}`;
    tell(`Saved: ${figure.character} is ${said} (${where}).`);
  } catch (error) {
    tell("");
    failed(error);
  }
}

async function undo() {
  try {
    const figure = await film.corrections.undo();
    tell(figure ? `Taken back: what was said of ${figure.character} in frame ${figure.ordinal}.` : "There is nothing to take back.");
  } catch (error) {
    failed(error);
    await film.corrections.load();
  }
}

function playing(now) {
  by("play").textContent = now ? "❚❚" : "▶";
  by("play").setAttribute("aria-label", now ? "Pause" : "Play");
  by("stage").dataset.playing = now ? "yes" : "no";
  if (now) tell("");
  if (!now && frame) shown(frame);
}

function shot(by_) {
  const { clock } = film, now = clock.shot(frame.pts), first = clock.shots[now][2];
  // Back from within a shot leads to its own start first.
  const target = by_ < 0 && frame.pts > first ? now : Math.min(Math.max(0, now + by_), clock.shots.length - 1);
  picture.pause();
  picture.seek(clock.shown(clock.shots[target][2]));
}

function match(by_) {
  const { table, clock } = film, found = timeline.matches;
  if (!filter.active) return tell("Choose a character, an emotion or a certainty first.");
  if (!found.length) return tell("No frame is like that.");
  const here = frame.pts, before = (i) => table.pts[found[i][0]] < here, after = (i) => table.pts[found[i][0]] > here;
  let i = by_ > 0 ? found.findIndex((_, n) => after(n)) : found.findLastIndex((_, n) => before(n));
  if (i < 0) i = by_ > 0 ? 0 : found.length - 1; // around the end
  picture.pause();
  picture.seek(clock.place(table.ordinal[found[i][0]]));
  by("match-count").textContent = `${i + 1} of ${found.length}`;
}

function filtered(event) {
  // The least certainty and the most stay in order: the one that is moved stops at the other.
  const [least, most] = [by("filter-least"), by("filter-most")];
  if (Number(least.value) > Number(most.value)) {
    if (event?.target === least) least.value = most.value; else most.value = least.value;
  }
  filter.character = by("filter-character").value;
  filter.emotion = by("filter-emotion").value;
  filter.least = by("filter-least").value / 100;
  filter.most = by("filter-most").value / 100;
  by("range-text").textContent = `${by("filter-least").value}–${by("filter-most").value} %`;
  if (!film) return;
  film.version += 1;
  timeline.change(film);
  const count = timeline.matches.length;
  by("match-count").textContent = filter.active ? `${count || "no"} stretch${count === 1 ? "" : "es"}` : "everybody";
  for (const id of ["next-match", "previous-match"]) by(id).disabled = filter.active && !count;
  show();
}

function choices() {
  const fill = (id, all, values) => {
    const before = by(id).value;
    by(id).replaceChildren(element("option", { value: "" }, all), ...values.map((value) => element("option", { value }, value)));
    by(id).value = values.includes(before) ? before : "";
  };
  fill("filter-character", "everybody", film.names);
  fill("filter-emotion", "any emotion", [...film.emotions, "uncertain"]);
  by("legend").replaceChildren(
    ...[...film.emotions, "uncertain"].map((name) => {
      const swatch = element("i", { class: "swatch", "aria-hidden": "true" });
      paint(swatch, film.colours(name));
      return element("span", {}, swatch, name);
    }),
    element("span", { class: "soft" }, "A piece is what single frames are read as, until the next one looked at."),
  );
}

// The picture keeps the film's shape, pixels that are not square included.
function fit() {
  if (!film) return;
  const { width, height, aspect } = film.facts, stage = by("stage");
  const wide = Math.min(stage.clientWidth, stage.clientHeight * aspect);
  by("screen").style.width = `${wide}px`;
  by("screen").style.height = `${wide / aspect}px`;
  overlay.resize(width, height);
  show();
}

function layer(button) {
  const now = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(now));
  overlay.layers[button.dataset.layer] = now;
  show();
}

const actions = {
  play: () => picture.toggle(),
  step: (frames) => picture.step(frames),
  shot,
  match,
  first: () => { picture.pause(); picture.seek(0); },
  last: () => { picture.pause(); picture.seek(film.clock.pts.length - 1); },
  emotion: (i) => (film.emotions[i] ? say({ emotion: film.emotions[i] }) : tell(`No emotion has the digit ${i + 1}.`)),
  name: (letter) => film.letters.has(letter) && say({ as_character: film.letters.get(letter) }),
  nobody: () => say({ nobody: true }),
  turn,
  undo,
  scope: () => {
    const other = document.querySelector("input[name=scope]:not(:checked)");
    other.checked = true;
    tell(other.value === "track" ? "Corrections are now of the whole track." : "Corrections are now of this frame.");
  },
  masks: () => layer(document.querySelector("[data-layer=masks]")),
  zoom: (factor) => timeline.zoom(factor),
  all: () => timeline.all(),
  help: () => by("help").showModal(),
  ready: () => Boolean(film && picture && frame),
};

function bind() {
  const click = (id, what) => by(id).addEventListener("click", () => actions.ready() && what());
  click("play", actions.play);
  click("back", () => actions.step(-1));
  click("forward", () => actions.step(1));
  click("previous-shot", () => shot(-1));
  click("next-shot", () => shot(1));
  click("previous-match", () => match(-1));
  click("next-match", () => match(1));
  click("zoom-in", () => actions.zoom(0.5));
  click("zoom-out", () => actions.zoom(2));
  click("zoom-all", actions.all);
  click("undo", undo);
  by("help-button").addEventListener("click", actions.help);
  by("filter").addEventListener("input", filtered);
  by("filter").addEventListener("submit", (event) => event.preventDefault());
  by("filter").addEventListener("reset", () => setTimeout(filtered));
  by("films").addEventListener("change", () => openFilm(by("films").value).catch(failed));
  by("other-name").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = by("other").value.trim();
    if (!actions.ready()) return;
    if (!name) return tell("Type a name first.");
    const figure = meant;
    by("other").value = "";
    meant = null;
    by("stage").focus();
    say({ as_character: name }, figure);
  });
  by("other").addEventListener("focus", () => {
    if (!actions.ready()) return;
    picture.pause();
    meant ??= figures()?.find((one) => one.selected) ?? null;
  });
  by("split").addEventListener("change", async () => {
    const now = figures()?.[0]?.shot;
    if (now === undefined) return;
    chosenSplit.set(now, by("split").value);
    try {
      await film.corrections.assign(now, by("split").value);
      tell(`Shot ${now} is for ${by("split").value}.`);
    } catch (error) { failed(error); }
  });
  for (const button of document.querySelectorAll("[data-layer]")) button.addEventListener("click", () => layer(button));
  by("overlay").addEventListener("click", (event) => {
    const figure = frame && overlay.at(event);
    if (figure) select(figure.track); else if (picture?.playing) picture.pause();
  });
  new ResizeObserver(fit).observe(by("stage"));
  new ResizeObserver(() => timeline.paint()).observe(by("lanes"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => timeline.paint());
  // What another tab has said meanwhile.
  document.addEventListener("visibilitychange", () => { if (!document.hidden && film) film.corrections.load().catch(failed); });
  addEventListener("focus", () => film?.corrections.load().catch(failed));
  bindKeys(actions);
}

async function start() {
  bind();
  run = await get("/api/run");
  by("annotations").textContent = run.annotations;
  by("no-crops").hidden = run.crops;
  by("films").replaceChildren(...run.films.map((one) => element("option", { value: one.film }, one.name)));
  by("film-choice").hidden = run.films.length < 2;
  by("title").hidden = run.films.length > 1;
  const [asked, ordinal] = location.hash.slice(1).split("/");
  const first = run.films.find((one) => one.film === asked) ?? run.films[0];
  if (!first) return notice("This run has no film.", true);
  by("films").value = first.film;
  await openFilm(first.film, first.film === asked && /^\d+$/.test(ordinal ?? "") ? Number(ordinal) : null);
}

start().catch(failed);
