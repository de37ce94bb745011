"use strict";
// Draws a sweep's points: energy over latency, the area as size.

const root = document.documentElement;
const points = JSON.parse(document.getElementById("data").textContent).filter((p) => p.cycles !== null);
const COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"];
const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const escaped = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;");

function draw() {
  const most = Math.max(...points.map((p) => p.area_mm2), 1e-9);
  const traces = [...new Set(points.map((p) => p.network))].map((network, k) => {
    const mine = points.filter((p) => p.network === network), colour = COLOURS[k % COLOURS.length];
    return { type: "scatter", mode: "markers", name: network, x: mine.map((p) => p.latency_ms), y: mine.map((p) => p.energy_uj),
      marker: { symbol: mine.map((p) => (p.pareto ? "circle" : "circle-open")), size: mine.map((p) => 6 + 18 * p.area_mm2 / most), color: colour, line: { width: 1.5, color: colour } },
      customdata: mine.map((p) => `<b>${escaped(p.network)}</b><br>${Object.entries(p.settings).map(([a, b]) => `${a} ${b}`).join("<br>")}<br>` +
        `${p.cycles.toLocaleString("en-US")} cycles, ${p.latency_ms.toFixed(3)} ms<br>${p.energy_uj.toFixed(0)} uJ, ${p.area_mm2.toFixed(2)} mm²`),
      hovertemplate: "%{customdata}<extra></extra>" };
  });
  const axis = { gridcolor: css("--line"), zeroline: false, automargin: true };
  Plotly.react("plot", traces, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--fg"), size: 12 },
    margin: { l: 10, r: 10, t: 10, b: 10 }, hoverlabel: { bgcolor: css("--card"), font: { color: css("--fg") }, align: "left" }, showlegend: true,
    legend: { orientation: "h", y: 1.1 }, xaxis: { ...axis, title: { text: "latency, ms" } }, yaxis: { ...axis, title: { text: "energy, uJ" } } },
  { responsive: true, displayModeBar: false });
}

const wanted = window.matchMedia("(prefers-color-scheme: dark)");
const set = (dark) => { root.dataset.theme = dark ? "dark" : "light"; draw(); };
document.getElementById("theme").onclick = () => set(root.dataset.theme !== "dark");
wanted.addEventListener("change", () => set(wanted.matches));
set(wanted.matches);
root.dataset.ready = "yes";
