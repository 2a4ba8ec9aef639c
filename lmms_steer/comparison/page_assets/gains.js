const MOST_LINES = 30;

const SHORT = [21, 28, 35, 42];

/** The width of a text as the panels write it. */
function textWidth(text) {
  const ink = document.createElement("canvas").getContext("2d");
  ink.font = `12.5px ${getComputedStyle(document.body).fontFamily}`;
  return ink.measureText(text).width;
}

/** Shorten long names to fit next to a plot, by leaving out their middles; different names stay different if possible. */
function shortened(names) {
  const different = [...new Set(names)];
  let found;
  for (const share of [2, 4, 1.3]) {
    for (const most of SHORT) {
      const tail = Math.floor(most / share);
      const cut = (name) => (name.length > most ? `${name.slice(0, most - 1 - tail)}…${name.slice(-tail)}` : name);
      found = new Map(different.map((name) => [name, cut(name)]));
      if (new Set(found.values()).size === different.length) return found;
    }
  }
  return found;
}

/** Multiples of 1, 2 or 5 times a power of ten, at most six between the ends. */
function ticksOf([low, high]) {
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) ticks.push(Number((i * step).toPrecision(6)));
  return ticks;
}

/** Draw the panel of a task: the gain and interval of each system, with the same scale in all panels of one axis. */
function panel(task, scope, rows) {
  const chosen = new Set([...rows].sort((a, b) => Math.abs(b.gain) - Math.abs(a.gain)).slice(0, MOST_LINES));
  const shown = rows.filter((row) => chosen.has(row));
  const [left, width, step, top] = [gainLeft, gainLeft + 270, 24, 8];
  const height = top + step * shown.length + 26;
  const [low, high] = gainEnds.get(rows[0].axis);
  const x = (value) => left + (width - left - 12) * (value - low) / (high - low);
  const summary = shown.map((row) => `${row.system} ${row.told.gain}`).join("; ");
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Gains on ${task}: ${summary}` });
  for (const tick of ticksOf([low, high])) {
    svg.append(make("line", { x1: x(tick), x2: x(tick), y1: top, y2: height - 22, stroke: tick ? "var(--line)" : "var(--soft)", "stroke-width": tick ? 1 : 1.5 }),
      make("text", { x: x(tick), y: height - 6, "text-anchor": "middle", class: "axis" }, tick > 0 ? `+${tick}` : `${tick}`));
  }
  shown.forEach((row, i) => {
    const y = top + step * (i + 0.5);
    const mark = markOf(row.role, row.p_holm < 0.05);
    mark.setAttribute("transform", `translate(${x(row.gain) - 6} ${y - 6}) scale(.86)`);
    svg.append(make("g", {}, make("title", {}, `${row.system}: ${row.told.gain}, p (Holm) ${row.told.p_holm}`),
      make("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, gainNames.get(row.system)),
      make("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: `var(--${row.role})`, "stroke-width": 2.5 }), mark));
  });
  const more = rows.length > shown.length ? `; the ${shown.length} largest of ${rows.length}` : "";
  return make("div", {}, make("h3", {}, task, make("span", { class: "scope" }, ` ${scope === "task" ? "" : scope} n = ${shown[0].told.n}${more}`)), svg);
}

const gainNames = shortened(gained.map((row) => row.system));
const gainLeft = Math.max(150, 12 + Math.max(0, ...[...gainNames.values()].map(textWidth)));
BY_ID("gains-panels")?.append(...rowsTasks.map(([task, scope]) => [task, scope, gained.filter((row) => row.task === task)])
  .filter(([, , rows]) => rows.length).map((part) => panel(...part)));
