const PAGE = 12;
const unpacked = {};
const samples = { at: 0 };
const roles = Object.fromEntries(DATA.systems.map((system) => [system.name, system.role]));

/** The questions of a task, unpacked once. */
async function taskSamples(name) {
  if (!unpacked[name]) {
    const packed = [...document.querySelectorAll(".packed")].find((part) => part.dataset.task === name).textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked[name] = JSON.parse(await new Response(stream).text());
  }
  return unpacked[name];
}

/** "fixed" or "broken" if a system's score differs from the baseline's, else "". */
function change(doc, task, place, base) {
  if (doc.by[place] < 0 || doc.by[base] < 0 || place === base) return "";
  const [after, before] = [doc.answers[doc.by[place]][1], doc.answers[doc.by[base]][1]];
  if (after === null || before === null || after === before) return "";
  return (after - before) * task.better > 0 ? "fixed" : "broken";
}

function matches(doc, task, place, base, filter) {
  if (doc.by[place] < 0) return false;
  if (filter === "all") return true;
  if (filter === "paper") return doc.answers[doc.by[place]][3] !== null;
  if (filter === "unparsed") return doc.answers[doc.by[place]][2] === 1;
  if (filter === "changed") return doc.by[place] !== doc.by[base];
  return change(doc, task, place, base) === filter;
}

function card(doc, task, base) {
  const answers = doc.answers.map(([said, score, unparsed, paper], number) => {
    const who = task.systems.map((name, place) => [name, place]).filter(([, place]) => doc.by[place] === number);
    const chips = who.map(([name, place]) => {
      const kind = change(doc, task, place, base);
      const sign = kind === "fixed" ? "▲ " : kind === "broken" ? "▼ " : "";
      return make("span", { class: `chip ${kind}` }, sign, name, kind ? make("span", { class: "scope" }, ` ${kind}`) : null);
    });
    const worth = unparsed ? "– unparsed" : score === null ? "" : task.graded ? `scores ${score}` : score ? "✓ correct" : "✗ wrong";
    const byPaper = paper === null ? "" : ` (paper's scorer: ${paper === 1 ? "correct" : paper === 0 ? "wrong" : paper})`;
    return make("li", {}, make("span", { class: "said" }, said === "" ? "(empty)" : said), ` ${worth}${byPaper}`, make("div", { class: "who" }, ...chips));
  });
  const image = doc.image && doc.image.startsWith("data:image/") ? make("img", { src: doc.image, alt: `image of question ${doc.id}`, class: doc.image.startsWith("data:image/png") ? "small" : "", loading: "lazy" }) : null;
  return make("article", {}, image, make("div", {}, make("h3", {}, doc.question),
    make("div", { class: "soft" }, `question ${doc.id} · answer: ${doc.target}${doc.meant ? `, ${doc.meant}` : ""}`), make("ul", {}, ...answers)));
}

async function drawSamples() {
  const name = BY_ID("samples-task").value;
  const task = await taskSamples(name);
  // the user chose another task while this one was being unpacked
  if (BY_ID("samples-task").value !== name) return;
  const base = task.systems.indexOf(DATA.baseline);
  const [filter, system] = [BY_ID("samples-filter").value, BY_ID("samples-system").value];
  const places = system ? [task.systems.indexOf(system)] : [...task.systems.keys()];
  const found = task.docs.filter((doc) => places.some((place) => place >= 0 && matches(doc, task, place, base, filter)));
  samples.at = Math.max(0, Math.min(samples.at, PAGE * Math.floor((found.length - 1) / PAGE)));
  const shown = found.slice(samples.at, samples.at + PAGE);
  BY_ID("samples-list").replaceChildren(...shown.map((doc) => card(doc, task, base)));
  BY_ID("samples-count").textContent = found.length
    ? `${samples.at + 1}–${samples.at + shown.length} of ${found.length} (${task.docs.length} of ${task.n} questions are on this page)` : `none of the ${task.docs.length} questions on this page`;
  BY_ID("samples-back").disabled = samples.at === 0;
  BY_ID("samples-on").disabled = samples.at + PAGE >= found.length;
}

function turn(by) {
  samples.at += by * PAGE;
  return drawSamples();
}

const withSamples = [...document.querySelectorAll(".packed")].map((part) => part.dataset.task);
options(BY_ID("samples-task"), withSamples);
options(BY_ID("samples-system"), ["", ...DATA.systems.map((system) => system.name)], ["any system", ...DATA.systems.map((system) => system.name)]);
for (const id of ["samples-task", "samples-filter", "samples-system"]) {
  BY_ID(id).addEventListener("input", () => { samples.at = 0; drawSamples(); });
}
BY_ID("samples-back").addEventListener("click", () => turn(-1));
BY_ID("samples-on").addEventListener("click", () => turn(1));
BY_ID("samples").addEventListener("keydown", (event) => {
  if (event.target.matches("select, input")) return;
  if (event.key === "ArrowLeft" && !BY_ID("samples-back").disabled) turn(-1);
  if (event.key === "ArrowRight" && !BY_ID("samples-on").disabled) turn(1);
});
// unpack the answers only when they come close to the visible part of the page
new IntersectionObserver((seen, watcher) => {
  if (seen.some((one) => one.isIntersecting) && withSamples.length) { watcher.disconnect(); drawSamples(); }
}, { rootMargin: "600px" }).observe(BY_ID("samples"));
