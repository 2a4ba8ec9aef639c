const COLUMNS = [
  ["task", "benchmark"], ["model", "model"], ["system", "system"], ["method", "method"], ["base", "baseline"], ["score", "score"],
  ["gain", "gain [95%]"], ["control", "best control"], ["kl", "damage"], ["n", "n"], ["failed", "failed checks"],
];
const TEXTS = ["task", "model", "system", "method"];
const STEP = 200;
const MOST_POINTS = 3000;
const view = { by: null, down: false, shown: STEP };
let rows = [];
let widest = 1;
const parts = new Map();

/** The JSON of a packed script element. */
async function unpack(element) {
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const scaled = (row, value) => (row.percent ? 100 * value : value);
const number = (row, value) => (value === null ? "" : scaled(row, value).toFixed(row.percent ? 1 : 3));
const signed = (row, value) => (value === null ? "" : `${scaled(row, value) > 0 ? "+" : ""}${number(row, value)}`);
const gainText = (row) => {
  if (row.gain === null) return "";
  // null: all questions show one image
  const ends = row.low === null ? "-∞, +∞" : `${signed(row, row.low)}, ${signed(row, row.high)}`;
  return `${signed(row, row.gain)} [${ends}]`;
};
const sure = (row) => row.gain !== null && (row.low > 0 || row.high < 0);

function matching() {
  const [task, model, words] = [BY_ID("by-task").value, BY_ID("by-model").value, BY_ID("find").value.toLowerCase().split(/\s+/)];
  const [method, role, passed] = [BY_ID("by-method").value, BY_ID("by-role").value, BY_ID("passed").checked];
  const found = rows.filter((row) => (!task || row.task === task) && (!model || row.model === model)
    && (!method || row.method === method) && (!role || row.role === role) && (!passed || !row.failed.length)
    && words.every((word) => row.search.includes(word)));
  if (!view.by) return found;
  const sign = view.down ? -1 : 1;
  const key = (row) => (view.by === "failed" ? row.failed.length : row[view.by]);
  return found.sort((one, two) => {
    const [a, b] = [key(one), key(two)];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  });
}

/** The gain with its interval, as a small bar in the row. */
function bar(row) {
  const x = (value) => 55 + 54 * Math.max(-1, Math.min(1, value / widest));
  const colour = `var(--${row.role})`;
  return make("svg", { class: "bar", viewBox: "0 0 110 18", "aria-hidden": "true" },
    make("line", { x1: 55, x2: 55, y1: 0, y2: 18, stroke: "var(--soft)", "stroke-width": 1 }),
    make("line", { x1: x(scaled(row, row.low)), x2: x(scaled(row, row.high)), y1: 9, y2: 9, stroke: colour, "stroke-width": 2 }),
    make("rect", { x: x(scaled(row, row.gain)) - 2, y: 4, width: 4, height: 10, fill: colour }));
}

function cell(row, key, label) {
  if (key === "system") {
    return make("td", { class: "text name" }, make("a", { href: `#${row.place}` }, named(row.system, row.role)));
  }
  // a name may break after its punctuation, not within a word
  const name = TEXTS.includes(key) && row[key].split(/(?<=[_/.-])/).flatMap((piece) => [piece, make("wbr")]);
  if (name) return make("td", { class: `text ${key}` }, ...name);
  if (key === "gain" && row.gain !== null) {
    const coloured = sure(row) && row.role !== "control";
    return make("td", { class: `gain whole ${coloured ? (row.direction * row.gain > 0 ? "up" : "down") : ""}`, "data-label": label }, gainText(row), bar(row));
  }
  if (key === "failed") {
    const chips = row.failed.map((name) => make("span", { class: "failed", title: DATA.checks[name] ?? "" }, name));
    return make("td", chips.length ? { class: "text whole failures", "data-label": label } : {}, ...chips);
  }
  let text = row[key] === null ? "" : `${row[key]}`;
  if (key === "control" && row.control !== null) text = `${signed(row, row.control)} (${row.controlKind})`;
  if (key === "score" || key === "base") text = number(row, row[key]);
  if (key === "kl" && row.kl !== null) text = row.kl.toPrecision(2);
  return make("td", text ? { "data-label": label } : {}, text);
}

function draw() {
  const found = matching();
  const shown = found.slice(0, view.shown);
  BY_ID("board-table").tBodies[0].replaceChildren(...shown.map((row) =>
    make("tr", { class: `${row.role} ${sure(row) && row.role !== "control" ? "sure" : ""}` }, ...COLUMNS.map(([key, label]) => cell(row, key, label)))));
  BY_ID("board-count").textContent = `${shown.length} of ${found.length} rows${found.length < rows.length ? ` (${rows.length} in all)` : ""}`;
  BY_ID("board-more").hidden = shown.length === found.length;
  for (const head of BY_ID("board-table").tHead.rows[0].cells) {
    if (head.dataset.key === view.by) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  if (BY_ID("damage-plot")) drawDamage(found);
}

function sortBy(key) {
  const text = TEXTS.includes(key);
  // first click: the interesting end first; second: the other end first; third: the original order
  if (view.by !== key) Object.assign(view, { by: key, down: !text });
  else if (view.down === !text) view.down = !view.down;
  else view.by = null;
  draw();
}

function drawDamage(found) {
  const points = found.filter((row) => row.kl !== null && row.gain !== null && row.percent).slice(0, MOST_POINTS);
  const place = BY_ID("damage-plot");
  if (!points.length) { place.replaceChildren(make("p", { class: "soft" }, "None of these rows.")); return; }
  const [width, height, left, bottom] = [Math.max(260, Math.min(960, place.clientWidth)), 360, 46, 40];
  const logs = points.map((row) => Math.log10(Math.max(row.kl, 1e-5)));
  const [first, last] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs) + 1e-9)];
  const most = Math.max(1, ...points.map((row) => Math.abs(100 * row.gain))) * 1.1;
  const x = (log) => left + (width - left - 12) * (log - first) / Math.max(1, last - first);
  const y = (gain) => 10 + (height - bottom - 10) * (most - gain) / (2 * most);
  const at = points.map((row) => [x(Math.log10(Math.max(row.kl, 1e-5))), y(100 * row.gain)]);
  // a tap opens the nearest point: a point itself is too small for a finger
  const open = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const far = at.map(([across, down]) => Math.hypot(across - event.clientX + box.left, down - event.clientY + box.top));
    const nearest = far.indexOf(Math.min(...far));
    if (far[nearest] < 16) location.hash = points[nearest].place;
  };
  const svg = make("svg", { width, height, click: open, role: "img", "aria-label": `Gain against damage of ${points.length} rows; the table has the same numbers` });
  const every = Math.ceil(56 * (last - first) / (width - left));
  for (let power = first; power <= last; power += every) {
    svg.append(make("line", { x1: x(power), x2: x(power), y1: 10, y2: height - bottom, stroke: "var(--line)" }),
      make("text", { x: x(power), y: height - bottom + 16, "text-anchor": "middle" }, `${Number((10 ** power).toPrecision(1))}`));
  }
  for (const gain of [-most / 1.1, 0, most / 1.1]) {
    svg.append(make("line", { x1: left, x2: width - 12, y1: y(gain), y2: y(gain), stroke: gain ? "var(--line)" : "var(--soft)" }),
      make("text", { x: left - 6, y: y(gain) + 4, "text-anchor": "end" }, `${gain > 0 ? "+" : ""}${gain.toFixed(1)}`));
  }
  svg.append(make("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "damage: KL in nats"), make("text", { x: 2, y: 4 }, "gain in points"));
  points.forEach((row, i) => {
    const mark = markOf(row.role, sure(row));
    mark.setAttribute("transform", `translate(${at[i][0] - 5} ${at[i][1] - 5}) scale(.72)`);
    svg.append(make("g", { class: "point" }, make("title", {}, `${row.system} on ${row.task}, ${row.model}: ${gainText(row)}, KL ${row.kl.toPrecision(2)}`), mark));
  });
  place.replaceChildren(svg);
}

function facts(values) {
  const list = make("dl");
  for (const [name, value] of Object.entries(values)) if (value !== null && value !== "") list.append(make("dt", {}, name), make("dd", {}, `${value}`));
  return list;
}

/** The details of the row that the address names. */
async function show() {
  const place = decodeURIComponent(location.hash.slice(1));
  const index = rows.findIndex((row) => row.place === place);
  if (index < 0) return;
  const part = Math.floor(index / DATA.part);
  if (!parts.has(part)) parts.set(part, unpack(document.getElementsByClassName("details")[part]));
  const [row, made] = [rows[index], (await parts.get(part))[index % DATA.part]];
  BY_ID("made-title").textContent = `${row.system} on ${row.task}, ${row.model}`;
  const gained = row.gain === null ? [] : [make("p", {}, `Gain ${gainText(row)}, p ${row.p === null ? "not known" : row.p.toPrecision(2)}, ${made.fixed} fixed, ${made.broken} broken, n = ${row.n}.`)];
  const outcomes = make("ul", { class: "outcomes" }, ...Object.entries(made.outcomes).filter(([, [status]]) => status !== "not needed").map(([name, [status, detail]]) =>
    make("li", {}, make("span", { class: `status ${status === "failed" ? "failed-check" : status}` }, status), `${name}: ${DATA.checks[name] ?? ""}${detail ? ` (${detail})` : ""}`)));
  const link = DATA.repository ? [make("p", {}, make("a", { href: DATA.repository + row.place }, "the entry's files"))] : [];
  BY_ID("made").querySelector("div").replaceChildren(...gained, ...(made.about ? [make("p", {}, made.about)] : []),
    make("h3", {}, "Made by"), commandBlock(made.command), make("h3", {}, "Run it again"), commandBlock(`lmms-steer leaderboard rerun entries/${row.place} --limit 50`), ...link,
    make("h3", {}, "Checks"), outcomes, facts({
      spec: made.spec, metric: made.metric, baseline: made.baseline,
      ...Object.fromEntries(Object.entries(made.controls).map(([kind, [system, gain]]) => [`best ${kind} control`, `${system} ${signed(row, gain)}`])),
      "added by": made.by, added: made.added,
      ...Object.fromEntries(Object.entries(made.hashes).map(([name, hash]) => [`${name}, sha256`, hash])), ...made.versions,
    }));
  if (!BY_ID("made").open) BY_ID("made").showModal();
}

async function start() {
  const keys = DATA.columns;
  rows = (await unpack(BY_ID("packed"))).map((values) => {
    const row = Object.fromEntries(keys.map((key, i) => [key, values[i]]));
    row.search = [row.task, row.model, row.system, row.concept, row.method, row.role].join(" ").toLowerCase();
    return row;
  });
  const ends = rows.filter((row) => row.gain !== null && row.percent).flatMap((row) => [Math.abs(100 * row.low), Math.abs(100 * row.high)]);
  widest = ends.reduce((a, b) => Math.max(a, b), 1);
  BY_ID("board-table").tHead.rows[0].append(...COLUMNS.map(([key, label]) =>
    make("th", { scope: "col", class: TEXTS.includes(key) ? "text" : "", "data-key": key }, make("button", { type: "button", click: () => sortBy(key) }, label))));
  for (const key of ["task", "model", "method"]) {
    const values = [...new Set(rows.map((row) => row[key]))].filter(Boolean).sort();
    options(BY_ID(`by-${key}`), ["", ...values], ["all", ...values]);
  }
  options(BY_ID("board-sort"), ["", ...COLUMNS.map(([key]) => key)], ["name", ...COLUMNS.map(([, label]) => label)]);
  BY_ID("board-sort").addEventListener("input", (event) => { view.by = null; if (event.target.value) sortBy(event.target.value); else draw(); });
  for (const id of ["find", "by-task", "by-model", "by-method", "by-role", "passed"]) BY_ID(id).addEventListener("input", () => { view.shown = STEP; draw(); });
  BY_ID("board-more").addEventListener("click", () => { view.shown += STEP; draw(); });
  BY_ID("key").append(...[...new Set(rows.map((row) => row.role))].map((role) => named(ROLE_LABELS[role] ?? role, role)));
  BY_ID("made").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  addEventListener("hashchange", show);
  addEventListener("resize", () => { if (BY_ID("damage-plot")) drawDamage(matching()); });
  draw();
  show();
}

start();
