"use strict";
// Draws the charts and opens the frames behind a figure. Everything that comes from a table is put into the page as
// text, never as markup.
(() => {
  const { films, charts } = JSON.parse(document.getElementById("data").textContent);
  const SHOWN = 24, LISTED = 200;

  function node(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  // ---- words, as in insideout/report/words.py
  const pad = (value) => String(value).padStart(2, "0");
  function timecode(seconds) {
    const tenths = Math.floor(seconds * 10 + 1e-6), whole = Math.floor(tenths / 10);
    const minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
    const clock = hours ? `${hours}:${pad(minutes % 60)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
    return `${clock}.${tenths % 10}`;
  }
  const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : share >= 0.995 && share < 1 ? ">99 %" : `${(100 * share).toFixed(0)} %`);
  const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
  const number = (value) => value.toLocaleString("en");
  const range = (low, high) => (low === null || high === null ? "no interval" : `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)} %`);

  // ---- the rows of a film, with names for their columns
  const frame = ([ordinal, time, shot, track, who, emotion, certainty, chances, picture], place) =>
    ({ ordinal, time, shot, track, who, emotion, certainty, chances, picture, place });
  const stretch = ([track, who, shot, start, end, emotion, certainty, seconds, frames, lane, lanes, read]) =>
    ({ track, who, shot, start, end, emotion, certainty, seconds, frames, lane, lanes, read });
  const figure = ([title, said, frames, rows, condition, character, emotion, tracks]) =>
    ({ title, said, frames, rows, condition, character, emotion, tracks });
  for (const film of films) {
    if (!film.frames) continue;
    film.frames = film.frames.map(frame);
    film.tracks = film.tracks.map(stretch);
    film.figures = film.figures.map(figure);
  }

  function readAs(one, emotion) {
    for (let i = 0; i < one.read.length; i += 2) if (one.read[i] === emotion) return one.read[i + 1];
    return 0;
  }

  function evenly(rows, count) {
    if (rows.length <= count) return rows;
    return Array.from({ length: count }, (_, i) => rows[Math.round((i * (rows.length - 1)) / (count - 1))]);
  }

  // ---- the dialog
  const dialog = document.getElementById("frames");
  const body = document.getElementById("frames-body");
  const heading = document.getElementById("frames-title");

  function chip(film, emotion) {
    const swatch = node("i", { class: `swatch ${film.styles[emotion]}`, "aria-hidden": "true" });
    return node("span", { class: "chip" }, swatch, film.readings[emotion]);
  }

  function card(film, one, marked) {
    const name = film.characters[one.who];
    const made = node("li", marked ? { class: "marked" } : {});
    const source = one.picture === 1 ? document.querySelector(`img[data-picture="${films.indexOf(film) + 1}-${one.place}"]`)?.src
      : one.picture ? `data:image/webp;base64,${one.picture}` : null;
    made.append(source
      ? node("img", { src: source, alt: `${name} at ${timecode(one.time)}, read as ${film.readings[one.emotion]}` })
      : node("span", { class: "nopicture" }, "no picture"));
    const ranked = one.chances.map((chance, i) => [chance, i]).sort((a, b) => b[0] - a[0]);
    made.append(node("div", { class: "caption" },
      node("b", {}, timecode(one.time)), node("span", { class: "when" }, `shot ${one.shot}, frame ${number(one.ordinal)}`),
      chip(film, one.emotion), node("span", {}, `${percent(one.certainty)} certain`),
      node("ul", { class: "chances", "aria-label": "Probabilities" }, ...ranked.map(([chance, i]) => {
        const bar = node("i", { "aria-hidden": "true" });
        bar.style.width = `${100 * chance}%`;
        bar.style.backgroundColor = film.colours[i];
        return node("li", {}, node("span", {}, film.readings[i]), node("span", {}, percent(chance)), bar);
      }))));
    return made;
  }

  function query(condition) {
    const text = node("code", {}, condition);
    const button = node("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(condition);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
    });
    return node("div", { class: "query" },
      node("p", { class: "note" }, "The rows behind it, as SQL on the table screen that insideout analyse writes:"), text, button);
  }

  function stretches(film, rows, emotion) {
    if (!rows.length) return null;
    const shown = rows.slice(0, LISTED);
    const head = ["From", "To", "Shot", "Emotion of the track", emotion === null ? "On screen" : `Read as ${film.readings[emotion]}`];
    return node("details", {},
      node("summary", {}, shown.length < rows.length ? `Stretches: ${number(shown.length)} of ${number(rows.length)}` : `Stretches: ${number(rows.length)}`),
      node("table", {}, node("thead", {}, node("tr", {}, ...head.map((name) => node("th", { scope: "col" }, name)))),
        node("tbody", {}, ...shown.map((one) => node("tr", {},
          node("th", { scope: "row" }, node("button", { type: "button", class: "link", "data-film": films.indexOf(film), "data-track": one.track }, timecode(one.start))),
          node("td", {}, timecode(one.end)), node("td", {}, String(one.shot)), node("td", {}, chip(film, one.emotion)),
          node("td", {}, `${(emotion === null ? one.seconds : readAs(one, emotion)).toFixed(1)} s`))))));
  }

  function open({ film, title, said, frames, rows, condition, tracks, emotion = null, marked = null }) {
    // Not every frame has a picture in a page of limited size; where some have, these are shown.
    const seen = frames.filter((one) => one.picture);
    if (seen.length) frames = seen;
    heading.textContent = title;
    const shown = frames.length === rows ? (rows === 1 ? "The one frame is shown" : `All ${number(rows)} frames are shown`)
      : rows ? `${number(frames.length)} of ${plural(rows, "frame")} ${frames.length === 1 ? "is" : "are"} shown`
        : `${plural(frames.length, "frame")} ${frames.length === 1 ? "is" : "are"} shown`;
    body.replaceChildren(...[
      node("p", {}, said),
      node("p", { class: "note", id: "frames-count" }, `${shown}${frames.length > 1 && frames.length !== rows ? ", evenly over shots" : ""}.`),
      node("ul", { class: "frames", "aria-label": "Frames" }, ...frames.map((one) => card(film, one, one.place === marked))),
      stretches(film, tracks, emotion),
      query(condition),
    ].filter(Boolean));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    heading.focus();
  }

  const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

  function openFigure(film, at) {
    const found = film.figures[at];
    const who = film.characters.indexOf(found.character);
    const emotion = found.emotion === null ? null : film.readings.indexOf(found.emotion);
    const only = found.tracks && new Set(found.tracks);
    open({
      film, title: found.title, said: `${found.said}.`, rows: found.rows, condition: found.condition, emotion,
      frames: found.frames.map((place) => film.frames[place]),
      tracks: film.tracks.filter((one) => one.who === who && (only ? only.has(one.track) : emotion === null || readAs(one, emotion) > 0)),
    });
  }

  function openTrack(film, track, marked = null) {
    const found = film.tracks.find((one) => one.track === track);
    const own = film.frames.filter((one) => one.track === track);
    const frames = evenly(own, SHOWN);
    if (marked !== null && !frames.some((one) => one.place === marked)) frames[0] = film.frames[marked];
    open({
      film, marked, frames, rows: found.frames, tracks: [],
      title: `${film.characters[found.who]}, shot ${found.shot}, ${timecode(found.start)} to ${timecode(found.end)}`,
      said: `The track is read as ${film.readings[found.emotion]}, ${found.seconds.toFixed(1)} seconds on screen; single frames: ` +
        film.readings.map((name, i) => [name, readAs(found, i)]).filter(([, length]) => length).map(([name, length]) => `${name} ${length.toFixed(1)} s`).join(", ") + ".",
      condition: `film = ${quoted(film.film)} AND track = ${track}`,
    });
  }

  function openAround(film, row) {
    const near = (one) => one.who === row.who && one.emotion === row.reading;
    const from = row.time - film.width, to = row.time + film.width;
    const own = film.frames.filter((one) => near(one) && one.time >= from && one.time <= to);
    const tracks = film.tracks.filter((one) => one.who === row.who && one.end >= from && one.start <= to && readAs(one, row.reading) > 0);
    open({
      film, frames: evenly(own, SHOWN), rows: row.count, tracks, emotion: row.reading, condition: row.condition,
      title: `${film.characters[row.who]}, ${row.emotion} around ${row.at}`,
      said: `Mean probability of ${row.emotion}: ${row.said}. Frames that are read as it, from ${timecode(Math.max(0, from))} to ${timecode(Math.min(film.length, to))}. The mean is worth as much as one of ${row.worth}.`,
    });
  }

  document.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest(".close")) dialog.close();
    const button = event.target.closest("button[data-film]");
    if (!button) return;
    const film = films[button.dataset.film], { figure, track, frame, move } = button.dataset;
    if (figure !== undefined) openFigure(film, Number(figure));
    else if (track !== undefined) openTrack(film, Number(track));
    else if (frame !== undefined) openTrack(film, film.frames[frame].track, Number(frame));
    else if (move) film.move(move);
  });

  // ---- the charts: letters and lines take the colours of the page by CSS, which follows light, dark and print
  const soft = { labelColor: "var(--soft)", titleColor: "var(--soft)", domainColor: "var(--line)", tickColor: "var(--line)", gridColor: "var(--line)", labelFontSize: 12 };
  const config = { background: null, font: "system-ui, sans-serif", view: { stroke: null }, axis: soft, aria: false, autosize: { type: "fit-x", contains: "padding" } };

  const tip = node("div", { id: "tip", hidden: "" });
  document.body.append(tip);
  function tooltip(handler, event, item, value) {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(...Object.entries(value).map(([name, text]) => node("div", {}, node("span", {}, `${name} `), String(text))));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  }

  async function draw(place, name, datasets, change) {
    const spec = structuredClone(charts[name]);
    spec.datasets = datasets;
    change?.(spec);
    // Expressions are interpreted, not evaluated: the policy of the page lets no text become code.
    const { view } = await vegaEmbed(place, spec, { mode: "vega-lite", actions: false, renderer: "svg", ast: true, config, tooltip, defaultStyle: false });
    return view;
  }

  function set(spec, values) {
    for (const param of spec.params) if (param.name in values) param.value = values[param.name];
  }

  // Seconds from mark to mark on an axis, so that the marks are round and have room.
  function stepOf(length, place) {
    const most = Math.max(2, place.clientWidth / 90);
    return [0.1, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600].find((step) => length / step <= most) ?? Math.ceil(length / most);
  }

  // In charts the colour of an emotion, striped as in its legend where that is.
  const drawing = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const fills = drawing("svg", { id: "fills", width: 0, height: 0, "aria-hidden": "true" });
  document.body.append(fills);
  function fillOf(film, emotion) {
    const style = film.styles[emotion], colour = film.colours[emotion];
    if (!/^eu$| p/.test(style)) return colour;
    const id = `fill-${style.replace(" ", "-")}`, upright = style.endsWith("p2");
    if (!document.getElementById(id)) {
      const pattern = drawing("pattern", { id, width: upright ? 5 : 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: upright ? "" : "rotate(45)" });
      pattern.append(drawing("rect", { width: 6, height: 6, fill: colour }),
        drawing("rect", { width: 2, height: 6, fill: upright ? "rgb(255 255 255 / .6)" : "rgb(0 0 0 / .38)" }));
      fills.append(pattern);
    }
    return `url(#${id})`;
  }

  const strength = (film, who) => (film.supported[who] === false ? 0.4 : 1);

  async function drawShares(place, film, who) {
    const rows = film.shares.filter(([one]) => one === who).map(([, emotion, share, low, high, seconds, figure]) => ({
      emotion: film.readings[emotion], colour: fillOf(film, emotion), share, low, high, figure, strength: strength(film, who),
      said: `${percent(share)}, ${range(low, high)}`, time: `${seconds} s`,
    }));
    const view = await draw(place, "shares", { shares: rows }, (spec) => { spec.height = 16 * rows.length; });
    view.addEventListener("click", (event, item) => item?.datum?.figure !== undefined && openFigure(film, item.datum.figure));
  }

  async function drawArc(place, film, who) {
    const rows = film.arc.filter(([one]) => one === who).map(([, reading, time, share, low, high, shots, around, count]) => ({
      who, reading, time, share, low, high, emotion: film.readings[reading], colour: film.colours[reading], strength: strength(film, who),
      said: share === null ? "" : `${percent(share)}, ${range(low, high)}`, at: timecode(time), worth: `${plural(shots, "shot")} of equal weight`, condition: film.around[around], count,
    }));
    const view = await draw(place, "arc", { arc: rows }, (spec) => set(spec, { finish: film.length, step: stepOf(film.length, place) }));
    view.addEventListener("click", (event, item) => item?.datum?.condition && openAround(film, item.datum));
  }

  async function drawTimeline(place, film) {
    const BAND = 30, NAME = 20, names = [], tops = {};
    let height = 0;
    for (const who of film.order) {
      names.push({ name: film.characters[who] + (film.supported[who] === false ? " · not supported" : ""), top: height + NAME });
      tops[who] = height + NAME;
      height += NAME + BAND + 4;
    }
    const tracks = film.tracks.map((one) => ({
      track: one.track, start: one.start, end: one.end, colour: fillOf(film, one.emotion), certainty: one.certainty,
      top: tops[one.who] + (BAND / one.lanes) * one.lane, bottom: tops[one.who] + (BAND / one.lanes) * (one.lane + 1),
    }));
    // A line between blocks, but not where it would be all that is seen of them.
    const edgeOf = (length) => ((place.clientWidth / length) * film.length) / film.shots.length > 4 ? 0.5 : 0;
    const shots = film.shots.map(([start, end], i) => ({ start, end, odd: i % 2 === 1 }));
    const view = await draw(place, "timeline", { shots, tracks, names }, (spec) => {
      spec.height = height;
      set(spec, { finish: film.length, step: stepOf(film.length, place), edge: edgeOf(film.length) });
      spec.layer[1].encoding.y.scale.domain = [0, height];
    });
    view.addEventListener("click", (event, item) => item?.datum?.track !== undefined && !moved && openTrack(film, item.datum.track));

    const byTrack = new Map(film.tracks.map((one) => [one.track, one]));
    view.addEventListener("mousemove", (event, item) => {
      const one = byTrack.get(item?.datum?.track);
      tooltip(null, event, item, one && {
        character: film.characters[one.who], emotion: film.readings[one.emotion], certain: percent(one.certainty),
        from: timecode(one.start), to: timecode(one.end), shot: one.shot, "on screen": `${one.seconds.toFixed(1)} s`,
        ...(film.supported[one.who] === false && { "not supported:": "the classifier does not tell this character's emotions apart" }),
      });
    });
    place.addEventListener("mouseleave", (event) => tooltip(null, event));

    let begin = 0, finish = film.length, moved = false, waiting = false;
    const least = Math.min(5, film.length), told = place.parentElement.querySelector("output");
    function show(from, to) {
      const width = Math.min(film.length, Math.max(least, to - from));
      begin = Math.min(Math.max(0, from), film.length - width);
      finish = begin + width;
      told.textContent = width < film.length ? `${timecode(begin)} to ${timecode(finish)}` : "";
      if (waiting) return;
      waiting = true; // a drag asks more often than a long film can be drawn
      requestAnimationFrame(async () => {
        waiting = false;
        const seen = tracks.filter((one) => one.end > begin && one.start < finish);
        view.data("tracks", seen);
        const length = finish - begin, now = `${begin} ${finish}`;
        view.signal("begin", begin).signal("finish", finish).signal("step", stepOf(length, place)).signal("edge", edgeOf(length));
        await view.runAsync();
        place.dataset.seen = now;
      });
    }
    function zoom(factor, at = (begin + finish) / 2) {
      show(at - (at - begin) * factor, at + (finish - at) * factor);
    }
    film.move = (move) => {
      const step = (finish - begin) / 2;
      if (move === "all") show(0, film.length);
      else if (move === "earlier") show(begin - step, finish - step);
      else if (move === "later") show(begin + step, finish + step);
      else zoom(move === "closer" ? 0.5 : 2);
    };
    place.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = place.getBoundingClientRect();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, begin + ((event.clientX - box.left) / box.width) * (finish - begin));
    }, { passive: false });
    let held = null;
    place.addEventListener("pointerdown", (event) => { held = { x: event.clientX, begin, finish }; moved = false; });
    place.addEventListener("pointermove", (event) => {
      if (!held || event.buttons !== 1 || Math.abs(event.clientX - held.x) < 4) return;
      moved = true;
      const by = ((held.x - event.clientX) / place.getBoundingClientRect().width) * (held.finish - held.begin);
      show(held.begin + by, held.finish + by);
    });
    addEventListener("pointerup", () => { held = null; });
  }

  async function drawAll() {
    for (const place of document.querySelectorAll(".chart[data-film]")) {
      const film = films[place.dataset.film], who = film.characters.indexOf(place.dataset.character);
      if (place.dataset.chart === "timeline") await drawTimeline(place, film);
      else await (place.dataset.chart === "arc" ? drawArc : drawShares)(place, film, who);
    }
    document.getElementById("without-scripts").remove();
    document.documentElement.dataset.drawn = "yes";
  }
  drawAll();
})();
