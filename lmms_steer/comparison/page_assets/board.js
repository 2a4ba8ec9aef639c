const rowsTasks = [...new Map(DATA.rows.map((row) => [row.task, row.scope]))];
const COLUMNS = [
  ...(rowsTasks.length > 1 ? [["task", "task"]] : []),
  ["system", "system"], ["score", "score"], ["gain", "gain [95%]"],
  ...(DATA.rows.some((row) => row.blank !== null) ? [["blank", "blank images"]] : []),
  ["p", "p"], ["p_holm", "p (Holm)"],
  ["n", "n"], ["fixed", "fixed / broken"], ["unparsed", "unparsed"],
  ...(DATA.rows.some((row) => row.told.divergence) ? [["divergence", "KL"]] : []),
  ...(DATA.rows.some((row) => row.recall !== null) ? [["recall", "recall"], ["words", "words"]] : []),
  ...(DATA.rows.some((row) => row.yes !== null) ? [["yes", "yes"]] : []),
  ...(DATA.rows.some((row) => row.empty > 0) ? [["empty", "empty"]] : []),
  ...DATA.readings,
  ["seconds", "time"],
];
const FIRST = 200;
const view = { by: null, down: false, all: false };
const gained = DATA.rows.filter((row) => row.gain !== null);
/** Axis ▸ its ends, which include 0 and all intervals; in points also 1 on both sides, lest tiny gains look large. */
const gainEnds = new Map([...new Set(gained.map((row) => row.axis))].map((axis) => {
  const least = axis === "points" ? 1 : 0;
  const rows = gained.filter((row) => row.axis === axis);
  const ends = [Math.min(-least, ...rows.map((row) => row.low)), Math.max(least, ...rows.map((row) => row.high))];
  return [axis, ends[0] === ends[1] ? [-1, 1] : ends];
}));

function sorted(rows) {
  if (!view.by) return rows;
  const sign = view.down ? -1 : 1;
  return [...rows].sort((one, two) => {
    const [a, b] = [one[view.by] ?? null, two[view.by] ?? null];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  });
}

function shownRows() {
  const [task, part] = [BY_ID("board-task").value, BY_ID("board-find").value.toLowerCase()];
  const sure = BY_ID("board-sure").checked;
  return sorted(DATA.rows.filter((row) => (!task || row.task === task) && row.system.toLowerCase().includes(part)
    && (!sure || (row.p_holm !== null && row.p_holm < 0.05))));
}

/** The gain with its interval, as a small bar in the row. */
function bar(row) {
  const widest = Math.max(...gainEnds.get(row.axis).map(Math.abs));
  const x = (value) => 55 + 54 * Math.max(-1, Math.min(1, value / widest));
  const colour = `var(--${row.role})`;
  return make("svg", { class: "bar", viewBox: "0 0 110 18", "aria-hidden": "true" },
    make("line", { x1: 55, x2: 55, y1: 0, y2: 18, stroke: "var(--soft)", "stroke-width": 1 }),
    make("line", { x1: x(row.low), x2: x(row.high), y1: 9, y2: 9, stroke: colour, "stroke-width": 2 }),
    make("rect", { x: x(row.gain) - 2, y: 4, width: 4, height: 10, fill: colour }));
}

function line(row, first) {
  const sure = row.p_holm !== null && row.p_holm < 0.05;
  // a gain of a control is not good news, and a loss of one is not bad news
  const coloured = sure && row.role !== "control";
  const cells = COLUMNS.map(([key, label]) => {
    if (key === "task") {
      const scope = row.scope === "task" ? null : make("span", { class: "scope" }, ` ${row.scope}`);
      return make("td", { class: "text task" }, row.task, scope);
    }
    if (key === "system") return make("td", { class: "text system" }, named(row.system, row.role),
      row.different ? make("span", { class: "different" }, `other ${row.different}`) : null);
    if (key === "gain" && row.refused) return make("td", { class: "gain whole text soft" }, `not compared: ${row.refused}`);
    if (key === "gain" && row.gain !== null) {
      return make("td", { class: `gain whole ${coloured ? (row.direction * row.gain > 0 ? "up" : "down") : ""}`, "data-label": label }, row.told.gain, bar(row));
    }
    if (key === "blank" && row.told.blank) {
      // the gain in a line of its own, lest the column push others off the screen
      const [score] = row.told.blank.split(", ");
      const gain = row.told.blank.slice(score.length + 2);
      return make("td", { "data-label": label }, score, gain ? make("div", { class: "soft" }, gain) : null);
    }
    const text = row.told[key] ?? "";
    return make("td", text ? { "data-label": label } : {}, text);
  });
  const how = make("button", { class: "made", type: "button", "aria-label": `Provenance of ${row.system} on ${row.task}`, click: () => showProvenance(row) }, "…");
  return make("tr", { class: `${row.role} ${coloured ? "sure" : ""} ${first ? "first" : ""}` }, ...cells, make("td", { class: "how" }, how));
}

function drawLeaderboard() {
  const rows = shownRows();
  const shown = view.all ? rows : rows.slice(0, FIRST);
  BY_ID("board-table").tBodies[0].replaceChildren(
    ...shown.map((row, i) => line(row, !view.by && i > 0 && shown[i - 1].task !== row.task)));
  BY_ID("board-count").textContent = `${shown.length} of ${DATA.rows.length} rows`;
  BY_ID("board-more").hidden = shown.length === rows.length;
  for (const head of BY_ID("board-table").tHead.rows[0].cells) {
    if (head.dataset.key && head.dataset.key === view.by) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function sortBy(key) {
  const text = key === "task" || key === "system";
  // first click: the interesting end first; second: the other end first; third: the original order
  if (view.by !== key) Object.assign(view, { by: key, down: !text && !key.startsWith("p") });
  else if (view.down === (!text && !key.startsWith("p"))) view.down = !view.down;
  else view.by = null;
  drawLeaderboard();
}

function showProvenance(row) {
  BY_ID("made-title").textContent = `${row.system} on ${row.task}`;
  const bases = DATA.rows.filter((other) => other.task === row.task && other.role === "baseline" && other !== row);
  const parts = [...row.made, ...bases.flatMap((other) => other.made)].map((place) => {
    const one = DATA.made[place];
    const facts = {
      "spec": one.spec, "spec, sha256": one.spec_sha256,
      ...Object.fromEntries(Object.entries(one.vectors).map(([name, hash]) => [`vector ${name}, sha256`, hash])),
      "samples": one.samples, "samples, sha256": one.samples_sha256, "results": one.results, "results, sha256": one.results_sha256,
      "metric": one.metric, "seeds": Object.entries(one.seeds).map(([name, seed]) => `${name} ${seed}`).join(", "),
      "harness": one.harness, "date": one.date,
    };
    const list = make("dl");
    for (const [name, value] of Object.entries(facts)) if (value) list.append(make("dt", {}, name), make("dd", {}, value));
    return make("div", {}, make("h3", {}, `${one.system} on ${one.task}`), commandBlock(one.command), list);
  });
  const differences = row.differences.length ? [make("h3", {}, `Different from ${DATA.baseline}`),
    make("dl", {}, ...row.differences.flatMap((one) => [make("dt", {}, one.key),
      make("dd", {}, one.run === one.baseline ? one.run : `${one.run} (${DATA.baseline}: ${one.baseline})`)]))] : [];
  const test = row.test ? [make("p", {}, `p: ${row.test}. Gain ${row.told.gain}, p ${row.told.p}, after Holm ${row.told.p_holm}.`)] : [];
  BY_ID("made").querySelector("div").replaceChildren(...test, ...differences, ...parts);
  BY_ID("made").showModal();
}

BY_ID("board-table").tHead.rows[0].append(...COLUMNS.map(([key, label]) =>
  make("th", { scope: "col", class: key === "task" || key === "system" ? "text" : "", "data-key": key }, make("button", { type: "button", click: () => sortBy(key) }, label))),
  make("th", { scope: "col", class: "how", "aria-label": "provenance" }));
options(BY_ID("board-task"), ["", ...rowsTasks.map(([task]) => task)], ["all", ...rowsTasks.map(([task, scope]) => (scope === "task" ? task : `${task} (${scope})`))]);
for (const id of ["board-task", "board-find", "board-sure"]) BY_ID(id).addEventListener("input", drawLeaderboard);
options(BY_ID("board-sort"), ["", ...COLUMNS.map(([key]) => key)], ["order of the runs", ...COLUMNS.map(([, label]) => label)]);
BY_ID("board-sort").addEventListener("input", (event) => { view.by = null; if (event.target.value) sortBy(event.target.value); else drawLeaderboard(); });
BY_ID("board-more").addEventListener("click", () => { view.all = true; drawLeaderboard(); });
BY_ID("key").append(...[...new Set(DATA.rows.map((row) => row.role))].map((role) => named(ROLE_LABELS[role], role)));
drawLeaderboard();
