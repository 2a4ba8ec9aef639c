/** The background colour of a cell; the same as in figures (lmms_steer/plots/heatmap.py). */
function shade(share) {
  const strength = Math.round(100 * Math.min(1, Math.abs(share)));
  return `color-mix(in srgb, ${share >= 0 ? DATA.shades.gain : DATA.shades.loss} ${strength}%, var(--card))`;
}

function drawMap(map) {
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), ...map.alphas.map((alpha) => make("th", { scope: "col" }, `${Number(alpha.toPrecision(4))}`)));
  const rows = [...map.layers.keys()].reverse().map((i) => make("tr", {}, make("th", { scope: "row" }, `${map.layers[i]}`),
    ...map.gains[i].map((gain, j) => {
      if (gain === null) return make("td", {}, "–");
      const best = map.best && map.best[0] === map.layers[i] && map.best[1] === map.alphas[j];
      const points = (100 * gain).toFixed(1);
      const share = 100 * gain / map.limit;
      const deep = Math.abs(share) >= DATA.shades.deep;
      return make("td", { class: `${best ? "best" : ""} ${deep ? "deep" : ""}`.trim() || null, style: `background:${shade(share)}` },
        `${Number(points) > 0 ? `+${points}` : Number(points) === 0 ? "0.0" : points}${map.dropped[i][j] ? " ·" : ""}`);
    })));
  return make("figure", {}, make("figcaption", {}, `${map.tokens} tokens`, make("span", { class: "scope" }, `  alpha →, n = ${map.n}${map.dropped.flat().some((one) => one) ? "; dots: dropped early, on fewer" : ""}`)),
    make("table", { class: "map" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

const [LEAST_DAMAGE, MOST_DAMAGE] = [1e-5, 100];

/** Draw gain against damage, one point a cell; `controls` are the maps of random vectors from the same study. */
function drawDamage(maps, controls) {
  const pointsOf = (role) => (map) => map.gains.flatMap((row, i) => row.map((gain, j) => (
    { role, gain: 100 * gain, damage: map.damage[i][j], known: gain !== null && map.damage[i][j] !== null, dropped: map.dropped[i][j],
      best: map.best && map.best[0] === map.layers[i] && map.best[1] === map.alphas[j],
      name: `${map.vector}, layer ${map.layers[i]}, alpha ${Number(map.alphas[j].toPrecision(4))}, ${map.tokens} tokens` })));
  const points = [...controls.flatMap(pointsOf("control")), ...maps.flatMap(pointsOf("steered"))].filter((point) => point.known);
  if (!points.length) return null;
  const [width, height, left, bottom] = [460, 260, 52, 44];
  const power = (damage) => Math.log10(Math.min(MOST_DAMAGE, Math.max(LEAST_DAMAGE, damage)));
  const powers = points.map((point) => power(point.damage));
  const [first, last] = [Math.floor(Math.min(...powers)), Math.max(Math.floor(Math.min(...powers)) + 1, Math.ceil(Math.max(...powers)))];
  const gains = points.map((point) => point.gain);
  const [low, high] = [Math.min(-1, ...gains), Math.max(1, ...gains)];
  const x = (damage) => left + 10 + (width - left - 20) * (power(damage) - first) / (last - first);
  const y = (gain) => 10 + (height - bottom - 20) * (high - gain) / (high - low);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": "Gain against damage, one point a cell" });
  for (let tick = first; tick <= last; tick += 1) {
    svg.append(make("line", { x1: x(10 ** tick), x2: x(10 ** tick), y1: 6, y2: height - bottom, stroke: "var(--line)" }),
      make("text", { x: x(10 ** tick), y: height - bottom + 14, "text-anchor": "middle", class: "axis" }, `${10 ** tick}`));
  }
  // a label beside that of zero would cover it
  for (const gain of [0, ...[low, high].filter((end) => Math.abs(y(end) - y(0)) > 14)]) {
    svg.append(make("line", { x1: left, x2: width, y1: y(gain), y2: y(gain), stroke: gain ? "var(--line)" : "var(--soft)", "stroke-width": gain ? 1 : 1.5 }),
      make("text", { x: left - 6, y: y(gain) + 4, "text-anchor": "end", class: "axis" }, `${gain > 0 ? "+" : ""}${gain.toFixed(1)}`));
  }
  for (const point of points) {
    const mark = markOf(point.role, !point.dropped);
    mark.setAttribute("transform", `translate(${x(point.damage) - 4} ${y(point.gain) - 4}) scale(.57)`);
    const frame = point.best ? make("rect", { x: x(point.damage) - 7, y: y(point.gain) - 7, width: 14, height: 14, fill: "none", stroke: point.role === "steered" ? "var(--ink)" : "var(--control)", "stroke-width": 2 }) : null;
    svg.append(make("g", {}, make("title", {}, `${point.name}: ${point.gain.toFixed(1)} points, KL ${Number(point.damage.toPrecision(3))} nats${point.dropped ? ", dropped early" : ""}`), mark, frame));
  }
  const notes = [...(controls.length ? ["diamonds: cells of random vectors"] : []), ...(points.some((point) => point.dropped) ? ["hollow: dropped early, on fewer questions"] : [])];
  svg.append(make("text", { x: (left + width) / 2, y: height - 8, "text-anchor": "middle", class: "axis" }, "damage: mean KL(unsteered || steered) in nats"));
  return make("figure", { class: "damage" }, make("figcaption", {}, "gain in points against damage", make("span", { class: "scope" }, `  ${notes.join("; ")}`)), svg);
}

if (DATA.maps.length) {
  const nameOf = (map) => `${map.vector} · ${map.study}${map.task ? `, ${map.task}` : ""}`;
  const names = [...new Set(DATA.maps.map(nameOf))];
  const draw = () => {
    const shown = DATA.maps.filter((map) => nameOf(map) === BY_ID("maps-vector").value);
    const controls = DATA.maps.filter((map) => map.study === shown[0].study && map.vector.startsWith(`${shown[0].vector},control=`));
    BY_ID("maps-panels").replaceChildren(...[...shown.map(drawMap), drawDamage(shown, controls)].filter((panel) => panel));
  };
  options(BY_ID("maps-vector"), names);
  BY_ID("maps-vector").addEventListener("input", draw);
  draw();
}
