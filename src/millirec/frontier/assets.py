"""Style and script of the report's page. Nothing here is fetched from anywhere."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""The page may load nothing, not even if a text in it should ask for it."""

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1rem;color:#1d2330;background:#fff}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .2rem}
.verdict{border-left:6px solid #0072B2;background:#f3f6fa;padding:.6rem 1rem;border-radius:4px}
.verdict.none{border-color:#D55E00}.verdict p{margin:.3rem 0}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:14px}
th,td{padding:.3rem .6rem;border-bottom:1px solid #dde1e8;text-align:right;white-space:nowrap;vertical-align:top}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff}
th button{all:unset;cursor:pointer;font-weight:600}th button:focus-visible{outline:2px solid #0072B2}
th[aria-sort=ascending] button::after{content:" \\2191"}th[aria-sort=descending] button::after{content:" \\2193"}
td.notes{white-space:normal;text-align:left;min-width:22rem}tr.chosen td{background:#eaf3fb}
small,.q{color:#565f70}.mark{display:inline-block;width:1.2em}
pre{font:13px/1.45 ui-monospace,monospace;background:#f4f6f9;padding:.7rem .9rem;overflow-x:auto;border-radius:6px}
details{border-top:1px solid #dde1e8;padding:.4rem 0}summary{cursor:pointer;font-weight:600}ul{margin:.3rem 0}
@page{size:A4 landscape;margin:12mm}
@media print{body{max-width:none;padding:0;font-size:11px}.wide{overflow:visible}table{font-size:9px}
th,td{padding:.15rem .25rem;white-space:normal}td.notes{min-width:10rem}td small{display:block}
.plots{grid-template-columns:repeat(3,1fr)}.plots,tr{break-inside:avoid}pre{white-space:pre-wrap;columns:2}}
"""

SCRIPT = """
for (const plot of JSON.parse(document.getElementById("plots").textContent))
  Plotly.newPlot(plot.id, plot.data, plot.layout, {responsive: true, displayModeBar: false});
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending", at = [...head.parentElement.children].indexOf(head);
  const value = row => { const v = row.children[at].dataset.v; return isNaN(v) ? v : Number(v); };
  const rows = [...body.rows].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (up ? 1 : -1));
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  document.querySelectorAll(".js-plotly-plot").forEach(one => Plotly.Plots.resize(one));
});
"""
