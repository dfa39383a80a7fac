// The transfer matrix of each experiment side by side, and what a press on a cell opens: everything it was made of.

const MARKS = { ahead: "▲", behind: "▼", even: "=" };
const TOLD = { ahead: "clearly ahead of", behind: "clearly behind", even: "not told apart from" };
const round = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const percent = (share) => (share == null ? "–" : `${round(100 * share, share < 0.1 ? 1 : 0)}%`);
const interval = ([, low, high], digits = 0) => (high === undefined ? "" : `[${round(low, digits)}, ${round(high, digits)}]`);
const bytes = (value) => (value >= 2 ** 20 ? `${round(value / 2 ** 20, 1)} MiB` : `${round(value / 2 ** 10, 1)} KiB`);
const breakable = (name) => name.split(/(?<=[/_:-])/).flatMap((part) => [part, element("wbr")]);
const nameIn = (matrix, cell) => JSON.stringify([matrix.experiment, cell.line, cell.column]);

function drawMatrix() {
  const parts = matrices.filter(({ experiment }) => chosen.experiment.has(experiment)).map((matrix) => {
    const shown = matrix.cells.filter((cell) => cell.cells.some((place) => passes(cells[place], "target")));
    const used = new Set(shown.map((cell) => cell.column));
    return { matrix, shown, columns: matrix.columns.filter(({ key }) => used.has(key)) };
  });
  const blocks = blocksOf(parts.flatMap(({ shown }) => shown));
  const remarks = [...leftOut, ...parts.flatMap(({ matrix }) => [...matrix.left_out.map((text) => `Not in the matrix: ${text}.`), ...matrix.remarks])];
  const notes = remarks.length ? [element("ul", { class: "remarks" }, ...remarks.map((text) => element("li", {}, text)))] : [];
  if (!blocks.length) return notes;
  const several = parts.length > 1;
  const filled = parts.filter(({ columns }) => columns.length);
  const groupsOf = filled.map(({ matrix, columns }) => element("th", { colspan: columns.length, scope: "colgroup" }, matrix.experiment));
  const titles = filled.flatMap(({ columns }) => columns.map(({ title, modality, targets }, index) => {
    const told = title.startsWith(modality) ? [] : [element("small", {}, modality)];
    const more = targets.length > 1 ? [element("small", {}, `${targets.length} targets`)] : [];
    return element("th", { scope: "col", ...(several && !index ? { class: "first" } : {}) }, ...breakable(title), ...told, ...more);
  }));
  const bodyOf = ({ line, name, kind }) => element("tr", { class: kind }, element("th", { scope: "row" }, ...breakable(name)),
    ...filled.flatMap(({ matrix, shown, columns }) => columns.map(({ key }, index) => {
      const cell = shown.find((one) => one.line === line && one.column === key);
      return element("td", several && !index ? { class: "first" } : {}, ...(cell ? [cellButton(matrix, cell)] : []));
    })));
  const wide = 1 + filled.reduce((sum, { columns }) => sum + columns.length, 0);
  const body = blocks.flatMap(([title, lines]) => [
    element("tr", { class: "block" }, element("th", { colspan: wide, scope: "rowgroup" }, element("span", {}, title))), ...lines.map(bodyOf),
  ]);
  const head = [...(several ? [element("tr", {}, element("td", {}), ...groupsOf)] : []), element("tr", {}, element("td", {}), ...titles)];
  const made = element("table", { class: "matrix" }, element("thead", {}, ...head), element("tbody", {}, ...body));
  made.addEventListener("keydown", walk);
  return [
    element("h2", {}, "What is left of the full cache's score"),
    element("p", { class: "caption" }, "Score in percent of the full cache's, its 95% interval, and the share of the tokens that was kept. " +
      "▲ clearly ahead of the best rival of its size, ▼ clearly behind, = not told apart. Press a cell to see what it was made of."),
    element("div", { class: "scroll" }, made), ...notes,
  ];
}

// Lines under what they have in common: references, each size with its NAMMs and rivals, sizes that NAMMs choose.
function blocksOf(shown) {
  const lines = new Map();
  shown.forEach((cell) => {
    const known = lines.get(cell.line) ?? { ...cell, scores: [] };
    lines.set(cell.line, { ...known, scores: [...known.scores, cell.relative?.[0] ?? 0] });
  });
  const worth = ({ scores }) => scores.reduce((sum, one) => sum + one, 0) / scores.length;
  const blocks = new Map();
  const rank = ({ kind, share }) => (kind === "reference" ? -1 : share ?? 2); // a share is at most 1
  [...lines.values()]
    .sort((a, b) => rank(a) - rank(b) || (a.kind !== "namm") - (b.kind !== "namm") || (a.kind === "reference" ? 0 : worth(b) - worth(a)))
    .forEach((line) => {
      const own = shown.some(({ share }) => share != null) ? "NAMMs at the size that they choose" : "NAMMs, and rivals of their size";
      const title = { "-1": "references", 2: own }[rank(line)] ?? `${round(100 * line.share)}% of the tokens for everybody`;
      blocks.set(title, [...(blocks.get(title) ?? []), line]);
    });
  return [...blocks];
}

function cellButton(matrix, cell) {
  const { relative, against = [] } = cell;
  const rival = against.find(({ name }) => name !== "full");
  const value = relative ? round(relative[0]) : round(cell.score, 1);
  const button = element("button", { class: relative ? "cell" : "cell measured" },
    element("b", {}, value, ...(rival ? [element("i", {}, MARKS[rival.verdict])] : [])),
    element("small", {}, relative ? interval(relative) : cell.unit), element("small", {}, cell.kept == null ? "" : `keeps ${percent(cell.kept)}`));
  if (relative) button.style.setProperty("--part", `${Math.max(0, Math.min(100, relative[0]))}%`);
  const told = relative ? `${value}% of the full cache's score` : `${cell.unit} ${value}`;
  button.setAttribute("aria-label", `${cell.line} on ${cell.column}: ${told}, keeps ${percent(cell.kept)} of the tokens` +
    (rival ? `, ${TOLD[rival.verdict]} ${rival.name}` : ""));
  button.dataset.cell = nameIn(matrix, cell);
  button.onclick = () => open(matrix, cell);
  return button;
}

// Arrows walk from cell to cell, over empty ones.
function walk(event) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  const at = event.target.closest("td");
  if (!at || (!down && !right)) return;
  const rows = [...event.currentTarget.tBodies[0].rows].filter((row) => row.className !== "block");
  let [row, column] = [rows.indexOf(at.parentElement) + down, at.cellIndex + right];
  while (rows[row]?.cells[column] && !rows[row].cells[column].querySelector("button")) [row, column] = [row + down, column + right];
  const next = rows[row]?.cells[column]?.querySelector("button");
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
}

const dialog = document.getElementById("opened");
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => {
  dialog.replaceChildren();
  remember();
});

function openNamed(name) {
  matrices.forEach((matrix) => matrix.cells.filter((cell) => nameIn(matrix, cell) === name).forEach((cell) => open(matrix, cell)));
}

const titleOf = (matrix, cell) => matrix.columns.find(({ key }) => key === cell.column).title;

// The same cell of every experiment that is chosen stands beside it.
function open(matrix, cell) {
  const title = titleOf(matrix, cell);
  const others = matrices.filter((other) => other !== matrix && chosen.experiment.has(other.experiment));
  const sides = [[matrix, cell], ...others.flatMap((other) =>
    other.cells.filter((one) => one.line === cell.line && titleOf(other, one) === title).map((one) => [other, one]))];
  const close = element("button", { class: "close", "aria-label": "close" }, "✕");
  close.onclick = () => dialog.close();
  const own = new Set(sides.flatMap(([, one]) => one.cells));
  const found = [...new Set([...own].map((place) => cells[place].target))];
  const host = element("div", {});
  const pick = found.map((target) => {
    const button = element("button", {}, target);
    button.onclick = () => show(target);
    return button;
  });
  const show = (target) => {
    pick.forEach((button) => button.setAttribute("aria-pressed", button.textContent === target));
    drawOpened(host, sides, own, target);
  };
  dialog.replaceChildren(
    element("div", { class: "top" }, element("h2", { id: "opened-title" }, `${cell.line} on ${title}`), close),
    element("div", { class: "sides" }, ...sides.map(([one, of]) => facts(one, of, sides.length > 1))),
    ...(found.length > 1 ? [element("div", { class: "filter", role: "group", "aria-label": "target" }, ...pick)] : []), host,
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  show(found[0]);
  remember(nameIn(matrix, cell));
}

function facts(matrix, cell, named) {
  const list = element("dl", {});
  const add = (name, text) => text && list.append(element("dt", {}, name), element("dd", {}, text));
  if (cell.relative) add("of the full cache", `${round(cell.relative[0], 1)}% ${interval(cell.relative, 1)}`);
  if (cell.native != null) add("of the model without a cache", `${round(cell.native, 1)}%`);
  if (cell.score !== null) add("score", `${round(cell.score, 2)}${cell.unit ? ` (${cell.unit})` : ""}`);
  add("kept", cell.kept == null ? "" : `${percent(cell.kept)} of the tokens`);
  add("keys and values", cell.bytes ? bytes(cell.bytes) : "");
  add("time a trial", cell.seconds ? `${round(cell.seconds, 2)} s` : "");
  (cell.against ?? []).forEach(({ name, verdict, difference, p }) =>
    add(`against ${name}`, `${TOLD[verdict]} it: ${round(difference[0], 2)} ${interval(difference, 2)} (corrected p ${p < 0.001 ? "< 0.001" : round(p, 3)})`));
  const parts = [["run", cell.runs], ["target", cell.targets]].filter(([, values]) => Object.keys(values ?? {}).length > 1);
  const tables = parts.map(([name, values]) => element("table", { class: "parts" },
    element("thead", {}, element("tr", {}, element("th", { class: "text", scope: "col" }, name), element("th", { scope: "col" }, "% of full"))),
    element("tbody", {}, ...Object.entries(values).map(([one, value]) =>
      element("tr", {}, element("th", { class: "text", scope: "row" }, one), element("td", {}, round(value, 1)))))));
  const told = cell.sentence ? [element("p", {}, cell.sentence)] : [];
  return element("section", {}, ...(named ? [element("h3", {}, matrix.experiment)] : []), ...told, list, ...tables);
}

// Its runs, curves, retention pictures, films and examples; the full cache and the best rival are drawn beside it.
function drawOpened(host, sides, own, target) {
  const beside = new Set(sides.flatMap(([matrix, cell]) => {
    const lines = ["full", ...(cell.against ?? []).map(({ line }) => line)];
    return matrix.cells.filter((one) => one.column === cell.column && lines.includes(one.line)).flatMap((one) => one.cells);
  }));
  const shown = [...new Set([...own, ...beside])].map((place) => cells[place]).filter((cell) => cell.target === target);
  const policies = new Set(shown.map((cell) => cell.policy));
  const curves = cells.filter((cell) => isCurve(cell) && cell.target === target && policies.has(cell.policy));
  const before = view;
  view = { by: "policy", experiments: sides.length > 1, targets: false };
  host.replaceChildren(element("div", { class: "legend" }, ...legendOf(shown)), tableOf(shown, false));
  drawSections(host, [...shown, ...curves], ["scatter", "trials", "lines", "heads", "media"]);
  const examples = shown.filter((cell) => cell.example).sort((a, b) => own.has(cells.indexOf(b)) - own.has(cells.indexOf(a)));
  if (examples.length) {
    host.append(element("h2", {}, "Examples"), element("p", { class: "caption" }, "One trial, and what was kept of it: the darker the more heads held it, faded where none did."));
  }
  examples.forEach((cell, index) => {
    const made = element("details", index ? {} : { open: "" }, element("summary", {}, nameOf(cell)), element("div", { class: "example" }));
    made.lastElementChild.innerHTML = cell.example; // made by evaluations/*/board.py, which escapes what is others'
    host.append(made);
  });
  view = before;
}
