"use strict";
// Draws the report from the data in the page; it asks the network for nothing.

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
const MOST_BARS = 1500; // in view, of an engine: beyond it neighbours of one layer are drawn as one bar
const MOST_BUFFERS = 4000;
const PALETTE = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb7744", "#8899aa"];
const ROLES = { weights: "#4477aa", activation: "#ee6677", tile: "#228833", input: "#ccbb44", output: "#aa3377", constants: "#66ccee" };

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const count = (n) => Math.round(n).toLocaleString("en-US");
const escaped = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;");

// --- tables ---------------------------------------------------------------------------------------------

function cell(column, row) {
  const value = row[column.key];
  if (value === null) return { text: "–", title: row.unavailable[column.key], number: true };
  switch (column.kind) {
    case "names": return { text: value.join(", "), names: true };
    case "share": return { text: (100 * value).toFixed(1) + "%", number: true };
    case "bytes": return { text: count(value / 1024) + " KiB", number: true };
    case "number": return { text: value.toFixed(1), number: true };
    case "count": return { text: count(value), number: true };
  }
  return { text: value };
}

function layerTable(D) {
  const head = $("table").tHead.insertRow(), body = $("table").tBodies[0];
  const lines = D.rows.map((row, i) => {
    const tr = document.createElement("tr");
    for (const column of D.columns) {
      const c = cell(column, row), td = tr.insertCell();
      td.textContent = c.text;
      if (c.title) td.title = c.title;
      td.className = c.number ? "number" : c.names ? "names" : "";
    }
    return { tr, row, i, text: [row.name, row.op, ...row.nodes].join("\n").toLowerCase() };
  });
  let key = null, down = true;
  const order = (a, b) => {
    if (key === null) return a.i - b.i;
    const x = a.row[key], y = b.row[key];
    const by = typeof x === "number" || typeof y === "number" ? (x ?? -1) - (y ?? -1) : String(x).localeCompare(String(y));
    return (down ? -by : by) || a.i - b.i;
  };
  const show = () => {
    const wanted = $("search").value.toLowerCase();
    const kept = lines.filter((line) => line.text.includes(wanted)).sort(order);
    body.replaceChildren(...kept.map((line) => line.tr));
    const nodes = $("nodes").tBodies[0].rows;
    for (const tr of nodes) tr.hidden = !tr.textContent.toLowerCase().includes(wanted);
    $("count").textContent = `${kept.length} of ${lines.length} rows`;
    [...head.cells].forEach((th, i) => th.setAttribute("aria-sort",
      D.columns[i].key !== key ? "none" : down ? "descending" : "ascending"));
  };
  for (const column of D.columns) {
    const th = document.createElement("th"), button = document.createElement("button");
    th.scope = "col";
    button.type = "button";
    button.textContent = column.title;
    button.onclick = () => {
      if (key === column.key) down = !down;
      else { key = column.key; down = !["text", "names"].includes(column.kind); }
      show();
    };
    th.append(button);
    head.append(th);
  }
  for (const [name, op, fate, layers] of D.nodes) {
    const tr = $("nodes").tBodies[0].insertRow();
    for (const text of [name, op, fate, layers.join(", ")]) tr.insertCell().textContent = text;
  }
  $("search").oninput = show;
  document.addEventListener("keydown", (e) => {
    if (e.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) { e.preventDefault(); $("search").focus(); }
  });
  show();
}

// --- plots ----------------------------------------------------------------------------------------------

const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function layout(more) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--fg"), size: 12 },
    margin: { l: 10, r: 10, t: 10, b: 10 }, hoverlabel: { bgcolor: css("--card"), font: { color: css("--fg") }, align: "left" },
    legend: { orientation: "h", y: 1.12 }, xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
  };
}

const OPTIONS = { responsive: true, displaylogo: false, displayModeBar: false, plotlyServerURL: "" };
const layerName = (D, i) => (i < 0 ? "idle" : D.rows[i].name);
const nodesOf = (D, i) => (i < 0 ? "" : D.rows[i].nodes.join(", "));
const wrapped = (text) => escaped(text).replace(/(.{1,90})(\s|$)/g, "$1<br>");

/** Bars of one engine in view: an instruction each, or neighbours of one layer as one. */
function bars(D, queue, low, high) {
  const { b, e, l, t } = queue, result = [];
  let first = 0, end = b.length;
  while (first < end) { const m = (first + end) >> 1; if (e[m] < low) first = m + 1; else end = m; }
  let last = first;
  while (last < b.length && b[last] <= high) last++;
  const slack = last - first > MOST_BARS ? (high - low) / MOST_BARS : -1;
  for (let i = first; i < last; i++) {
    const before = result[result.length - 1];
    if (before && slack >= 0 && before.layer === l[i] && b[i] - before.end <= slack) { before.end = e[i]; before.n++; }
    else result.push({ begin: b[i], end: e[i], layer: l[i], text: t ? t[i] : "", n: 1 });
  }
  return result;
}

function timeline(D) {
  const gd = $("plot-timeline"), o = D.owners, own = { b: [], e: [], l: [] };
  for (let i = 0; i < o.length; i += 3) { own.b.push(o[i]); own.e.push(o[i + 1]); own.l.push(o[i + 2]); }
  const lanes = [["layer", own], ...Object.entries(D.instructions)];
  let view = [0, D.cycles];
  const draw = () => {
    const x = [], base = [], y = [], colour = [], hover = [];
    let merged = false;
    for (const [name, queue] of lanes) {
      for (const bar of bars(D, queue, ...view)) {
        merged ||= bar.n > 1;
        x.push(Math.max(bar.end - bar.begin, 0)); base.push(bar.begin); y.push(name);
        colour.push(bar.layer < 0 ? css("--line") : PALETTE[bar.layer % PALETTE.length]);
        const what = bar.n > 1 ? `${count(bar.n)} pieces` : wrapped(bar.text || "");
        hover.push(`<b>${escaped(layerName(D, bar.layer))}</b> ${count(bar.begin)} to ${count(bar.end)}<br>${what}` +
          (what.endsWith("<br>") || !what ? "" : "<br>") + `<i>${wrapped(nodesOf(D, bar.layer))}</i>`);
      }
    }
    const trace = { type: "bar", orientation: "h", x, base, y, customdata: hover, hovertemplate: "%{customdata}<extra></extra>",
      marker: { color: colour, line: { width: 0 } } };
    Plotly.react(gd, [trace], layout({
      bargap: 0.25, xaxis: { title: { text: "cycles" }, range: view }, dragmode: "zoom",
      yaxis: { type: "category", categoryarray: lanes.map((lane) => lane[0]).reverse(), categoryorder: "array", fixedrange: true },
    }), OPTIONS);
    $("merged").textContent = merged ? "Neighbouring instructions of one layer are drawn as one bar: zoom in for each." : "Each bar is one instruction.";
  };
  const go = (low, high) => {
    const width = Math.min(Math.max(high - low, 20), D.cycles);
    low = Math.min(Math.max(low, 0), D.cycles - width);
    view = [low, low + width];
    draw();
  };
  const actions = {
    in: () => { const q = (view[1] - view[0]) / 4; go(view[0] + q, view[1] - q); },
    out: () => { const q = (view[1] - view[0]) / 2; go(view[0] - q, view[1] + q); },
    left: () => { const q = (view[1] - view[0]) / 4; go(view[0] - q, view[1] - q); },
    right: () => { const q = (view[1] - view[0]) / 4; go(view[0] + q, view[1] + q); },
    all: () => go(0, D.cycles),
  };
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all" };
  for (const button of document.querySelectorAll("[data-do]")) button.onclick = actions[button.dataset.do];
  gd.addEventListener("keydown", (e) => { if (keys[e.key]) { e.preventDefault(); actions[keys[e.key]](); } });
  D.rows.forEach((row, i) => { if (i < D.rows.length - 1) $("goto").add(new Option(row.name, i)); });
  $("goto").onchange = () => {
    const mine = own.l.flatMap((l, i) => (l === +$("goto").value ? [i] : []));
    if (mine.length) go(own.b[mine[0]], own.e[mine[mine.length - 1]]);
  };
  draw();
  gd.on("plotly_relayout", (change) => {
    const range = change["xaxis.range"] || (change["xaxis.range[0]"] !== undefined && [change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    if (range) go(range[0], range[1]);
    else if (change["xaxis.autorange"]) actions.all();
  });
  return draw;
}

function sram(D) {
  const s = D.sram;
  let kept = s.begin.map((_, i) => i).filter((i) => s.end[i] > s.begin[i]);
  if (kept.length > MOST_BUFFERS) {
    const size = (i) => s.size[i] * (s.end[i] - s.begin[i]);
    kept = kept.sort((a, b) => size(b) - size(a)).slice(0, MOST_BUFFERS);
    $("sram-note").textContent = `The ${count(MOST_BUFFERS)} largest of ${count(s.begin.length)} buffers, by bytes times cycles.`;
  }
  return () => {
    const traces = [...new Set(s.role)].map((role) => {
      const mine = kept.filter((i) => s.role[i] === role);
      return { type: "bar", name: role, x: mine.map((i) => (s.begin[i] + s.end[i]) / 2), width: mine.map((i) => s.end[i] - s.begin[i]),
        base: mine.map((i) => s.address[i]), y: mine.map((i) => s.size[i]), marker: { color: ROLES[role] || "#8899aa", opacity: 0.75, line: { width: 0 } },
        customdata: mine.map((i) => `<b>${escaped(layerName(D, s.layer[i]))}</b> ${role}<br>${count(s.size[i])} bytes at ${count(s.address[i])}<br>${count(s.begin[i])} to ${count(s.end[i])}`),
        hovertemplate: "%{customdata}<extra></extra>" };
    });
    Plotly.react($("plot-sram"), traces, layout({ barmode: "overlay", xaxis: { title: { text: "cycles" }, range: [0, D.cycles] },
      yaxis: { title: { text: "address, bytes" }, range: [0, s.bytes] } }), OPTIONS);
  };
}

function roofline(D) {
  const rows = D.rows.filter((r) => r.macs && r.cycles && r.dram_bytes);
  return () => {
    const intensity = rows.map((r) => r.macs / r.dram_bytes), low = Math.min(1, ...intensity) / 2, high = Math.max(1e3, ...intensity) * 2;
    const knee = D.roof.macs / D.roof.bandwidth, xs = [low, knee, Math.max(high, knee * 2)];
    const roof = { type: "scatter", mode: "lines", name: "roofline", x: xs, y: xs.map((x) => Math.min(x * D.roof.bandwidth, D.roof.macs)),
      line: { color: css("--muted"), dash: "dash" }, hoverinfo: "skip" };
    const traces = [...new Set(rows.map((r) => r.bound))].map((bound) => {
      const mine = rows.filter((r) => r.bound === bound);
      return { type: "scatter", mode: "markers", name: `bound by ${bound}`, x: mine.map((r) => r.macs / r.dram_bytes), y: mine.map((r) => r.macs / r.cycles),
        marker: { size: mine.map((r) => 7 + 30 * Math.sqrt(r.share)), opacity: 0.8, color: { mx: PALETTE[0], dram: PALETTE[1], sram: PALETTE[3], vx: PALETTE[2] }[bound] || PALETTE[7] },
        customdata: mine.map((r) => `<b>${escaped(r.name)}</b> (${r.op})<br>${count(r.cycles)} cycles, ${(r.macs / r.cycles).toFixed(0)} MACs a cycle`),
        hovertemplate: "%{customdata}<extra></extra>" };
    });
    Plotly.react($("plot-roofline"), [roof, ...traces], layout({ xaxis: { type: "log", title: { text: "MACs a byte of DRAM" } },
      yaxis: { type: "log", title: { text: "MACs a cycle" } } }), OPTIONS);
  };
}

function energy(D) {
  const order = D.rows.map((_, i) => i).sort((a, b) => D.rows[b].energy_uj - D.rows[a].energy_uj).slice(0, 30);
  return () => {
    const traces = D.levels.map((level, k) => ({ type: "bar", name: level, x: order.map((i) => D.rows[i].name), y: order.map((i) => D.energy[i][k]),
      marker: { color: PALETTE[k % PALETTE.length] }, hovertemplate: `%{x}<br>${level}: %{y:.1f} uJ<extra></extra>` }));
    Plotly.react($("plot-energy"), traces, layout({ barmode: "stack", yaxis: { title: { text: "uJ" } }, xaxis: { type: "category" } }), OPTIONS);
  };
}

function graph(D) {
  const { edges, places } = D.graph, rows = D.rows.slice(0, places.length);
  return () => {
    const x = [], y = [];
    for (const [a, b] of edges) {
      const [p, q] = [places[a], places[b]], span = q[0] - p[0], level = p[1] === q[1] && span > 1;
      x.push(p[0], (p[0] + q[0]) / 2, q[0], null); // what skips layers passes over them
      y.push(p[1], (p[1] + q[1]) / 2 + (level ? 0.25 * Math.sqrt(span) : 0), q[1], null);
    }
    const lines = { type: "scatter", mode: "lines", x, y, line: { color: css("--muted"), width: 1.2, shape: "spline" }, hoverinfo: "skip", showlegend: false };
    const dots = { type: "scatter", mode: "markers", x: places.map((p) => p[0]), y: places.map((p) => p[1]), showlegend: false,
      marker: { size: 13, color: rows.map((r) => r.share * 100), colorscale: "YlOrRd", reversescale: true, showscale: true, line: { width: 1, color: css("--muted") },
        colorbar: { title: { text: "% of cycles" }, thickness: 12 } },
      customdata: rows.map((r) => `<b>${escaped(r.name)}</b> (${r.op})<br>${count(r.cycles)} cycles, ${(100 * r.share).toFixed(1)}%, bound by ${r.bound}<br><i>${wrapped(r.nodes.join(", "))}</i>`),
      hovertemplate: "%{customdata}<extra></extra>" };
    Plotly.react($("plot-graph"), [lines, dots], layout({ xaxis: { visible: false }, yaxis: { visible: false } }), OPTIONS);
  };
}

async function main() {
  const wanted = window.matchMedia("(prefers-color-scheme: dark)");
  const setTheme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  setTheme(wanted.matches);
  const D = await unpack($("data").textContent);
  layerTable(D);
  const draws = [timeline(D), sram(D), roofline(D), energy(D), graph(D)];
  const redraw = () => draws.forEach((draw) => draw());
  redraw();
  $("theme").onclick = () => { setTheme(root.dataset.theme !== "dark"); redraw(); };
  wanted.addEventListener("change", () => { setTheme(wanted.matches); redraw(); });
  root.dataset.ready = "yes";
}

main();
