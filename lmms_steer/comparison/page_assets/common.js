const DATA = JSON.parse(document.getElementById("data").textContent);
const BY_ID = (id) => document.getElementById(id);
const SHAPES = {
  steered: "M7 1a6 6 0 1 0 0 12a6 6 0 1 0 0-12z", control: "M7 0l7 7l-7 7l-7-7z", prompted: "M1.5 1.5h11v11h-11z",
  other: "M7 .5l6.8 12.5h-13.6z", baseline: "M0 6h14v2h-14z",
};
const ROLE_LABELS = {
  baseline: "baseline", steered: "steered", prompted: "prompted: another prompt, no steering",
  control: "control: a vector without the concept, or a bias on answers", other: "another model, or the same in another setting",
};

/** Make an element. Everything from a run is added to the page by this function, as text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "text", "g", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "click") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function markOf(role, filled = true) {
  const colour = `var(--${role})`;
  return make("path", { d: SHAPES[role], fill: filled ? colour : "var(--card)", stroke: colour, "stroke-width": 2 });
}

function named(system, role) {
  return make("span", { class: "name" }, make("svg", { viewBox: "-1 -1 16 16", "aria-hidden": "true" }, markOf(role)), system);
}

/** A command with a button that copies it, or selects it where the browser does not let a page copy. */
function commandBlock(command) {
  const shown = make("pre", { tabindex: 0 }, command);
  const copy = async (event) => {
    const button = event.currentTarget;
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(shown);
      button.textContent = "selected";
    }
  };
  return make("div", { class: "command" }, shown, make("button", { type: "button", click: copy }, "copy"));
}

function options(select, values, labels = values) {
  select.replaceChildren(...values.map((value, i) => make("option", { value }, labels[i])));
}

function theme(name) { document.documentElement.dataset.theme = name; }
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
BY_ID("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
