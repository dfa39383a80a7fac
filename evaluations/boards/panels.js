// Draws the panels of evaluations/boards/panels.py from the cells of evaluations/boards/local_page.py.
"use strict";

const { cells, matrices, left_out: leftOut, sections, numbers } = JSON.parse(document.getElementById("data").textContent);
const RIVALS = ["#0077bb", "#009e73", "#cc79a7", "#56b4e9", "#b8a000", "#7a5cc4", "#d6604d", "#44aa99"];
const NAMM = ["#e0730f", "#a33b00", "#f0a860", "#7a4a20"];
const REFERENCE = "#8a8f98";
const GROUPINGS = {
  policy: ["policy"], target: ["target"], environment: ["env"], modality: ["modality"], experiment: ["experiment"],
  "target and policy": ["target", "policy"],
};
const MOST_MAPS = 6;
const TICKS = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));

// What cells share that have one colour, and which differences their names must tell.
let view = { by: "policy", experiments: false, targets: false };

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...children);
  return made;
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isCurve = (cell) => cell.size === "curve";
const literal = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // plotly reads tags in its texts

// Groups of cells: what they are called, how they are coloured, and the mean of their numbers.

const nameOf = (cell) => {
  const fields = [...GROUPINGS[view.by]];
  if (view.experiments && !fields.includes("experiment")) fields.push("experiment");
  return fields.map((field) => cell[field]).join(" · ");
};
const policyColours = (() => {
  const family = (wanted) => [...new Set(cells.filter((cell) => cell.family === wanted).map((cell) => cell.policy))].sort();
  const colours = {};
  family("reference").forEach((policy) => { colours[policy] = REFERENCE; });
  family("namm").forEach((policy, index) => { colours[policy] = NAMM[index % NAMM.length]; });
  family("rival").forEach((policy, index) => { colours[policy] = RIVALS[index % RIVALS.length]; });
  return colours;
})();
const colourOf = (cell, names) =>
  view.by === "policy" && !view.experiments
    ? policyColours[cell.policy]
    : [...RIVALS, ...NAMM][names.indexOf(nameOf(cell)) % (RIVALS.length + NAMM.length)];

function groups(shown) {
  const found = new Map();
  shown.forEach((cell) => found.set(nameOf(cell), [...(found.get(nameOf(cell)) ?? []), cell]));
  const names = [...found.keys()];
  return names.map((name) => ({ name, label: literal(name), cells: found.get(name), colour: colourOf(found.get(name)[0], names) }));
}

// Mean over cells that weigh the same; half widths of independent intervals add in quadrature.
function mean(group, name) {
  const known = group.cells.map((cell) => cell.numbers[name]).filter(Boolean);
  if (!known.length) return null;
  const value = known.reduce((sum, [v]) => sum + v, 0) / known.length;
  if (known.some((number) => number.length < 3)) return { value };
  const half = (side) => Math.sqrt(known.reduce((sum, n) => sum + (n[side] - n[0]) ** 2, 0)) / known.length;
  return { value, below: half(1), above: half(2) };
}

// One function a kind of panel: traces and what the layout needs, or null where there is nothing to show.

const marker = (cell) => (cell.family === "namm" ? "diamond" : cell.family === "reference" ? "square" : "circle");

function bars(panel, shown) {
  let known = groups(shown.filter((cell) => !isCurve(cell))).filter((group) => mean(group, panel.y[0]));
  if (!known.length) return null;
  known = known.sort((a, b) => mean(a, panel.y[0]).value - mean(b, panel.y[0]).value);
  const names = known.map((group) => group.label);
  const height = 110 + names.length * (panel.y.length > 1 ? 40 : 24);
  if (panel.y.length > 1) {
    const traces = panel.y.map((name, index) => ({
      type: "bar", orientation: "h", y: names, x: known.map((group) => mean(group, name)?.value ?? null),
      name: panel.names[index] ?? name, marker: { color: panel.colours[index] ?? RIVALS[index % RIVALS.length] },
    }));
    return { traces, height, layout: { barmode: "group", showlegend: true } };
  }
  const most = Math.max(...known.map((group) => group.cells.length));
  const title = ({ label, cells: { length } }) => (length < most ? `${label} (${length} of ${most})` : label);
  const intervals = known.some((group) => mean(group, panel.y[0]).below !== undefined);
  const traces = known.map((group) => {
    const { value, below = 0, above = 0 } = mean(group, panel.y[0]);
    const common = { name: group.label, y: [title(group)], x: [value] };
    if (!intervals) return { ...common, type: "bar", orientation: "h", marker: { color: group.colour } };
    return {
      ...common, type: "scatter", mode: "markers", cliponaxis: false, marker: { color: group.colour, size: 10, symbol: marker(group.cells[0]) },
      error_x: { type: "data", symmetric: false, array: [above], arrayminus: [below], thickness: 2, width: 4 },
    };
  });
  const room = panel.percent ? { xaxis: { range: [-0.04, 1.04] } } : {};
  return { traces, height, layout: { yaxis: { categoryorder: "array", categoryarray: known.map(title) }, ...room } };
}

function scatter(panel, shown) {
  const traces = groups(shown).flatMap((group) => {
    const lines = new Map();
    group.cells.forEach((cell) => {
      const key = [cell.experiment, cell.target, cell.policy].join();
      if (cell.numbers[panel.x] && cell.numbers[panel.y[0]]) lines.set(key, [...(lines.get(key) ?? []), cell]);
    });
    return [...lines.values()].map((line, index) => {
      const points = line.sort((a, b) => a.numbers[panel.x][0] - b.numbers[panel.x][0]);
      const y = points.map((cell) => cell.numbers[panel.y[0]]);
      return {
        type: "scatter", mode: points.length > 1 ? "lines+markers" : "markers", name: group.label,
        legendgroup: group.name, showlegend: index === 0, x: points.map((cell) => cell.numbers[panel.x][0]),
        y: y.map(([value]) => value), text: points.map((cell) => literal(`${cell.target} · ${cell.policy}`)),
        line: { color: group.colour, width: 1.5 }, hovertemplate: "%{text}<br>%{x:.1f}, %{y:.2f}",
        marker: { color: group.colour, size: points.map((cell) => (isCurve(cell) ? 6 : 10)), symbol: points.map(marker) },
        error_y: {
          type: "data", symmetric: false, color: group.colour, thickness: 1.5, width: 3,
          array: y.map((n) => (n[2] ?? n[0]) - n[0]), arrayminus: y.map((n) => n[0] - (n[1] ?? n[0])),
        },
      };
    });
  });
  return traces.length ? { traces, layout: {} } : null;
}

function trials(panel, shown) {
  const traces = groups(shown.filter((cell) => !isCurve(cell)))
    .map((group) => ({
      type: "box", name: group.label, y: group.cells.flatMap((cell) => cell.spread[panel.y[0]] ?? []),
      boxpoints: "all", jitter: 0.4, pointpos: 0, marker: { color: group.colour, size: 3 }, line: { width: 1 },
    }))
    .filter((trace) => trace.y.length);
  return traces.length ? { traces, layout: { xaxis: { tickangle: -40 } } } : null;
}

function lines(panel, shown) {
  const [name] = panel.y;
  const known = groups(shown.filter((cell) => !isCurve(cell) && cell.lines[name]));
  const band = known.length <= 3;
  const traces = known.flatMap((group) =>
    group.cells.flatMap((cell, index) => {
      const { x, y, low, high } = cell.lines[name];
      const shape = low ? "hv" : "linear";
      const dash = cell.family === "reference" ? "dash" : "solid";
      const line = {
        type: "scatter", mode: "lines", name: group.label, legendgroup: group.name, showlegend: index === 0, x, y,
        line: { color: group.colour, width: cell.family === "namm" ? 3 : 1.6, shape, dash },
        text: x.map(() => literal(`${cell.target} · ${cell.policy}`)), hovertemplate: "%{text}<br>%{x}, %{y:.3f}",
      };
      if (!low || !band) return [line];
      const edge = { ...line, showlegend: false, hoverinfo: "skip", hovertemplate: null, line: { width: 0, shape } };
      return [{ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: `${group.colour}22` }, line];
    }));
  return traces.length ? { traces, layout: {} } : null;
}

function heads(panel, shown) {
  const known = shown.filter((cell) => cell.heads && !isCurve(cell));
  const forgetful = known.filter((cell) => cell.family !== "reference");
  const all = forgetful.length ? forgetful : known;
  const maps = all.slice(0, MOST_MAPS);
  if (!maps.length) return null;
  const layout = { annotations: [], showlegend: false };
  const width = 1 / maps.length;
  const traces = maps.map((cell, index) => {
    const place = index ? index + 1 : "";
    layout[`xaxis${place}`] = { domain: [index * width, (index + 0.86) * width], type: "category", tickangle: -60 };
    layout[`yaxis${place}`] = { anchor: `x${place}`, type: "category", autorange: "reversed", showticklabels: !index };
    layout.annotations.push({
      text: `${view.targets ? `${literal(cell.target)}<br>` : ""}${literal(nameOf(cell))}`, showarrow: false, xref: "paper",
      yref: "paper", x: (index + 0.43) * width, y: 1.02, xanchor: "center", yanchor: "bottom", font: { size: 12 },
    });
    return {
      type: "heatmap", x: cell.heads.ages, y: cell.heads.names, z: cell.heads.values, zmin: 0, zmax: 1,
      colorscale: "Viridis", showscale: index === maps.length - 1, xaxis: `x${place}`, yaxis: `y${place}`,
      colorbar: { thickness: 10, tickformat: ".0%" }, hovertemplate: "age %{x}, %{y}: %{z:.0%}<extra></extra>",
    };
  });
  const more = all.length > maps.length ? `The first ${maps.length} of ${all.length}; choose policies above.` : "";
  return { traces, layout, wide: true, more, height: 210 + 18 * Math.max(...maps.map((cell) => cell.heads.names.length)) };
}

function media(panel, shown) {
  const filmed = shown.filter((cell) => cell.media[panel.y[0]]);
  if (!filmed.length) return null;
  const figures = filmed.map((cell) =>
    element("figure", {}, element("img", { src: cell.media[panel.y[0]], alt: `${cell.policy} on ${cell.target}` }),
      element("figcaption", {}, `${cell.policy} on ${cell.target} (${cell.env})`)));
  return { content: element("div", { class: "videos" }, ...figures), wide: true };
}

// The table of all cells, sorted by the column that was pressed last.

const number = (name, digits, factor = 1) => ({
  value: (cell) => cell.numbers[name]?.[0],
  show: (cell) => {
    const found = cell.numbers[name];
    if (!found) return "–";
    const text = (value) => (value * factor).toFixed(digits);
    return found.length < 3 ? text(found[0]) : [`${text(found[0])} `, element("small", {}, `[${text(found[1])}, ${text(found[2])}]`)];
  },
});
const plain = (field) => ({ value: (cell) => cell[field], show: (cell) => cell[field] ?? "–" });
const COLUMNS = [
  { title: "experiment", text: true, ...plain("experiment") }, { title: "target", text: true, ...plain("target") },
  { title: "environment", text: true, ...plain("env") }, { title: "policy", text: true, ...plain("policy") },
  { title: "memory", text: true, ...plain("size") }, { title: "budget", ...plain("budget") },
  ...numbers.map(({ name, title, digits, factor }) => ({ title, ...number(name, digits, factor) })),
  { title: "seeds", ...plain("seeds") }, { title: "trials", ...plain("trials") },
  { title: "NAMM", text: true, ...plain("namm") }, { title: "checkpoint", text: true, ...plain("checkpoint") },
];
let order = { column: 6, down: true };

function tableOf(shown, sortable) {
  const { value } = COLUMNS[order.column];
  const missing = order.down ? -Infinity : Infinity;
  const sorted = [...shown].sort((a, b) => {
    const [first, second] = [a, b].map((cell) => value(cell) ?? missing);
    return (first < second ? -1 : first > second ? 1 : 0) * (order.down ? -1 : 1);
  });
  const used = COLUMNS.map(({ value: of }, column) => [COLUMNS[column], column, new Set(shown.map(of))])
    .filter(([{ title }, , values]) => [...values].some((one) => one != null && one !== "") && (title !== "experiment" || matrices.length > 1));
  const heads = used.map(([{ title, text }, column]) => {
    const arrow = column === order.column ? (order.down ? " ↓" : " ↑") : "";
    const head = element("th", { scope: "col", ...(text ? { class: "text" } : {}) });
    if (!sortable) head.append(title);
    else {
      const button = element("button", {}, title + arrow);
      button.onclick = () => {
        order = { column, down: column === order.column ? !order.down : !text };
        draw();
      };
      head.append(button);
    }
    return head;
  });
  const rows = sorted.map((cell) =>
    element("tr", {}, ...used.map(([{ show, text }]) => element("td", text ? { class: "text" } : {}, ...[show(cell)].flat()))));
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: 0 }, made);
}

const table = (panel, shown) => ({ content: tableOf(shown, true), wide: true });

const PLOT = { responsive: true, displayModeBar: false };
const DRAW = { bars, scatter, trials, lines, heads, media, table };

function axis(title, percent, log) {
  const shares = percent ? { tickformat: ".0%", rangemode: "tozero" } : {};
  const grid = { gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true };
  return { title: { text: title, standoff: 8 }, ...grid, ...shares, ...(log ? { type: "log", tickvals: TICKS } : {}) };
}

function layoutOf(panel, made) {
  const across = panel.kind === "bars";
  const several = panel.kind === "heads";
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--ink"), size: 12 },
    margin: { l: 60, r: 16, t: several ? 48 : 12, b: several ? 72 : 48 }, height: made.height ?? 340, showlegend: false, hovermode: "closest",
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, font: { size: 11 } }, autosize: true,
  };
  if (several) return { ...base, ...made.layout };
  const axes = {
    xaxis: axis(panel.kind === "trials" ? "" : panel.x_title, panel.percent && across, panel.log_x),
    yaxis: axis(across ? "" : panel.y_title, panel.percent && !across, false),
  };
  Object.entries(made.layout).forEach(([name, value]) => {
    axes[name] = typeof value === "object" && axes[name] ? { ...axes[name], ...value } : value;
  });
  return { ...base, ...axes };
}

// Panels of some kinds for some cells: each section that has any, with its title.
function drawSections(host, shown, kinds) {
  sections.forEach(({ title, panels }) => {
    const wanted = panels.filter((panel) => kinds.includes(panel.kind));
    const of = (panel) => shown.filter((cell) => panel.kind === "table" || panel.modalities.includes(cell.modality));
    const made = wanted.map((panel) => [panel, DRAW[panel.kind](panel, of(panel))]).filter(([, content]) => content);
    if (!made.length) return;
    const grid = element("div", { class: "panels" });
    host.append(element("h2", {}, title), grid);
    const plots = made.map(([panel, content]) => {
      const box = element("div", { class: content.wide ? "panel wide" : "panel" }, element("h3", {}, panel.title));
      const help = [panel.help, content.more].filter(Boolean).join(" ");
      if (help) box.append(element("p", {}, help));
      grid.append(box);
      const place = content.content ?? element("div");
      box.append(place);
      return () => content.traces && Plotly.newPlot(place, content.traces, layoutOf(panel, content), PLOT);
    });
    plots.forEach((plot) => plot()); // all boxes are in place: a plot takes the width of its own
  });
}

// One legend for all panels.
const legendOf = (shown) => groups(shown).map(({ name, colour }) => {
  const dot = element("i", {});
  dot.style.background = colour;
  return element("span", {}, dot, name);
});
