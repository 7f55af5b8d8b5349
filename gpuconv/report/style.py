"""How the page looks: light and dark, on a phone and on a wide screen."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #111827; --muted: #4b5563; --line: #d1d5db;
  --panel: #f3f4f6; --accent: #1d4ed8; --tint: 37 99 235;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #111418; --ink: #e5e7eb; --muted: #a3acb9; --line: #374151;
    --panel: #1b2027; --accent: #93b4ff; --tint: 59 130 246;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; overflow-wrap: anywhere; }
p { margin: 0.5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
section { border-top: 1px solid var(--line); padding: 1.5rem 0 0.5rem; margin-top: 1.5rem; }
footer, figcaption, caption, dt, .note { color: var(--muted); font-size: 0.875rem; }
figcaption { margin-top: 0.3rem; }
footer { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 1.5rem; }
nav ul {
  list-style: none; display: flex; flex-wrap: wrap; gap: 0.5rem; padding: 0; margin: 1rem 0;
}
nav a {
  display: block; padding: 0.4rem 0.75rem; border: 1px solid var(--line); border-radius: 999px;
  text-decoration: none; font-size: 0.9rem;
}
dl { margin: 1rem 0; display: grid; gap: 0.75rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.key { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.key > div { background: var(--panel); border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
.key dd { font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts { grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); }
.scroll { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td {
  padding: 0.35rem 0.65rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap;
}
th { font-weight: 600; }
.number { text-align: right; }
td.words { white-space: normal; min-width: 22rem; }
.confusion td, .confusion th { text-align: center; padding: 0.3rem 0.45rem; min-width: 2.1rem; }
.confusion td { background: rgb(var(--tint) / var(--part, 0)); }
.confusion td.none { color: var(--muted); }
.confusion td.strong { color: #ffffff; }
.upright thead th {
  writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; border-bottom: 0;
}
.upright thead th:not(:first-child, :last-child) { font-weight: 400; }
@media (max-width: 30rem) {
  .confusion td, .confusion th { padding: 0.3rem 0.15rem; min-width: 1.5rem; }
}
.share { min-width: 7rem; }
.share span {
  display: block; height: 0.6rem; margin-top: 0.3rem; border-radius: 2px;
  background: rgb(var(--tint));
}
figure { margin: 0.75rem 0; }
img { max-width: 100%; height: auto; display: block; border-radius: 0.25rem; }
.paper img { background: #ffffff; }
.weights img { background: #9ca3af; }
.pair {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
}
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); }
.tiles figure { margin: 0; }
.tiles img { width: 100%; max-width: 7rem; image-rendering: pixelated; }
summary { cursor: pointer; padding: 0.4rem 0; color: var(--accent); }
@media print { nav { display: none; } section { break-inside: avoid-page; } }
"""
