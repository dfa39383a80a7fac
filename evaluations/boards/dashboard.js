// What is chosen, in lines of buttons, and the page that follows from it: the matrix above, all panels below.

const unique = (field) => [...new Set(cells.map((cell) => cell[field]))];
const targets = unique("target");
const chosen = {
  experiment: new Set(unique("experiment")), modality: new Set(unique("modality")),
  env: new Set(unique("env")), target: new Set(targets.slice(0, 1)), policy: new Set(unique("policy")),
  size: new Set(unique("size")),
};
let grouping = "policy";
const ALL = Symbol("all");
const passes = (cell, but = "") =>
  Object.entries(chosen).every(([field, values]) => field === but || values.has(cell[field]));

// The address after # keeps target, grouping and the cell that is open, so that a view can be sent to somebody.
const address = new URLSearchParams(location.hash.slice(1));
if (targets.includes(address.get("target"))) chosen.target = new Set([address.get("target")]);
if (address.get("target") === "all") chosen.target = new Set(targets);
if (address.get("by") in GROUPINGS) grouping = address.get("by");

function remember(open = null) {
  const target = chosen.target.size === targets.length && targets.length > 1 ? "all" : [...chosen.target][0];
  history.replaceState(null, "", `#${new URLSearchParams({ target, by: grouping, ...(open ? { open } : {}) })}`);
}

function draw() {
  const shown = cells.filter((cell) => passes(cell));
  const several = new Set(shown.map(({ experiment }) => experiment)).size > 1;
  view = { by: grouping, experiments: several, targets: chosen.target.size > 1 };
  document.getElementById("matrix").replaceChildren(...drawMatrix());
  document.getElementById("legend").replaceChildren(...legendOf(shown));
  const host = document.getElementById("sections");
  host.replaceChildren();
  drawSections(host, shown, Object.keys(DRAW));
  if (!shown.length) {
    host.append(element("p", { class: "empty" }, "No result has all that is chosen: press more names under “Filter and group”."));
  }
}

// The lines of buttons: of all that are on a press leaves one, further presses add and take away; of targets one is on.
function line(title, values, press, isOn) {
  const buttons = values.map((value) => {
    const button = element("button", {}, value === ALL ? "all" : String(value));
    button.onclick = () => {
      press(value);
      update();
    };
    return [button, value];
  });
  const made = element("div", { class: "filter", role: "group", "aria-label": title }, element("span", {}, title), ...buttons.map(([button]) => button));
  made.refresh = () => buttons.forEach(([button, value]) => button.setAttribute("aria-pressed", isOn(value)));
  return made;
}

function filter(title, field) {
  const values = unique(field);
  if (values.length < 2) return null;
  const single = field === "target";
  const press = (value) => {
    const set = chosen[field];
    if (value === ALL || (!single && set.size === 1 && set.has(value))) chosen[field] = new Set(values);
    else if (single || set.size === values.length) chosen[field] = new Set([value]); // of all only this one
    else set.has(value) ? set.delete(value) : set.add(value);
  };
  const isAll = () => chosen[field].size === values.length;
  const isOn = (value) => (value === ALL ? isAll() : chosen[field].has(value) && !(single && isAll()));
  return line(title, [...(single || values.length > 2 ? [ALL] : []), ...values], press, isOn);
}

const TITLES = {
  experiment: "experiment", modality: "modality", env: "environment", policy: "policy", size: "memory", target: "panels of",
};
const controls = [
  ...Object.entries(TITLES).map(([field, title]) => filter(title, field)),
  line("group by", Object.keys(GROUPINGS), (value) => { grouping = value; }, (value) => value === grouping),
].filter(Boolean);

function update() {
  remember();
  controls.forEach((control) => control.refresh());
  const narrowed = Object.entries(chosen).filter(([field, values]) => field !== "target" && values.size < unique(field).length);
  const named = narrowed.map(([field, values]) => `${TITLES[field]}: ${[...values].join(", ")}`);
  document.querySelector("#choice summary").textContent = `Filter and group${named.length ? ` · ${named.join(" · ")}` : ""}`;
  draw();
}

document.getElementById("filters").append(...controls);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
update();
if (address.get("open")) openNamed(address.get("open"));
