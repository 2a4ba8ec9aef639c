/** Blue for gains, orange for losses: told apart by a colour-blind reader, and the number is in the cell. */
function shade(gain, most) {
  const strength = Math.round(85 * Math.min(1, Math.abs(gain) / most));
  return `color-mix(in srgb, ${gain >= 0 ? "#2b7bba" : "#d9670b"} ${strength}%, var(--card))`;
}

function drawMap(map, most) {
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), ...map.alphas.map((alpha) => make("th", { scope: "col" }, `${Number(alpha.toPrecision(4))}`)));
  const rows = [...map.layers.keys()].reverse().map((i) => make("tr", {}, make("th", { scope: "row" }, `${map.layers[i]}`),
    ...map.gains[i].map((gain, j) => {
      if (gain === null) return make("td", {}, "·");
      const best = map.best && map.best[0] === map.layers[i] && map.best[1] === map.alphas[j];
      const points = (100 * gain).toFixed(1);
      const light = Math.abs(gain) / most > 0.55;
      return make("td", { class: best ? "best" : null, style: `background:${shade(gain, most)}${light ? ";color:#fff" : ""}` },
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
    const most = Math.max(0.01, ...shown.flatMap((map) => map.gains.flat()).map((gain) => Math.abs(gain ?? 0)));
    BY_ID("maps-panels").replaceChildren(...shown.map((map) => drawMap(map, most)));
  };
  options(BY_ID("maps-vector"), names);
  BY_ID("maps-vector").addEventListener("input", draw);
  draw();
}
