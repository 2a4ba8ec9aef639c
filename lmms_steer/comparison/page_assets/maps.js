/** The background colour of a cell; the same as in figures (lmms_steer/plots/heatmap.py). */
function shade(share) {
  const strength = Math.round(100 * Math.min(1, Math.abs(share)));
  return `color-mix(in srgb, ${share >= 0 ? DATA.shades.gain : DATA.shades.loss} ${strength}%, var(--card))`;
}

function drawMap(map) {
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), ...map.alphas.map((alpha) => make("th", { scope: "col" }, `${Number(alpha.toPrecision(4))}`)));
  const rows = [...map.layers.keys()].reverse().map((i) => make("tr", {}, make("th", { scope: "row" }, `${map.layers[i]}`),
    ...map.gains[i].map((gain, j) => {
      if (gain === null) return make("td", {}, "·");
      const best = map.best && map.best[0] === map.layers[i] && map.best[1] === map.alphas[j];
      const points = (100 * gain).toFixed(1);
      const share = 100 * gain / map.limit;
      const deep = Math.abs(share) >= DATA.shades.deep;
      return make("td", { class: `${best ? "best" : ""} ${deep ? "deep" : ""}`.trim() || null, style: `background:${shade(share)}` },
        Number(points) > 0 ? `+${points}` : Number(points) === 0 ? "0.0" : points);
    })));
  return make("figure", {}, make("figcaption", {}, `${map.tokens} tokens`, make("span", { class: "scope" }, `  alpha →, n = ${map.n}`)),
    make("table", { class: "map" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

if (DATA.maps.length) {
  const nameOf = (map) => `${map.vector} · ${map.study}${map.task ? `, ${map.task}` : ""}`;
  const names = [...new Set(DATA.maps.map(nameOf))];
  const draw = () => {
    const shown = DATA.maps.filter((map) => nameOf(map) === BY_ID("maps-vector").value);
    BY_ID("maps-panels").replaceChildren(...shown.map(drawMap));
  };
  options(BY_ID("maps-vector"), names);
  BY_ID("maps-vector").addEventListener("input", draw);
  draw();
}
