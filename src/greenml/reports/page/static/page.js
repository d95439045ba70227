/* Draws the charts in the scheme's colours, zooms a group together, shows and hides traces, sorts tables, prints. */
(() => {
  "use strict";
  performance.mark("charts-begun"); // Plotly itself has been loaded
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
  const figures = new Map();
  const homes = new Map();
  let printing = paper.matches;

  const family = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif';
  const axis = {
    gridcolor: "var(--grid)", zerolinecolor: "var(--grid)", linecolor: "var(--line)", automargin: true,
    title: { standoff: 8, font: { size: 12 } }, tickfont: { size: 12 },
  };
  const template = {
    layout: {
      font: { family, size: 12, color: "var(--muted)" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      colorway: [1, 2, 3, 4, 5, 6, 7, 8].map((number) => `var(--series-${number})`),
      margin: { l: 52, r: 10, t: 8, b: 40 }, showlegend: false, hovermode: "closest",
      hoverlabel: {
        bgcolor: "var(--surface)", bordercolor: "var(--gap)", font: { color: "var(--text)", size: 12 },
        namelength: -1, align: "left",
      },
      xaxis: { ...axis }, yaxis: { ...axis },
    },
  };

  /** A copy with each colour that is a name, under a key that says colour, replaced by the scheme's. */
  function coloured(value, key, colors) {
    if (typeof value === "string") {
      const name = /^var\((--[\w-]+)\)$/.exec(value);
      return name && /color/.test(key) && name[1] in colors ? colors[name[1]] : value;
    }
    if (Array.isArray(value)) {
      const first = value.find((item) => item !== null);
      return typeof first === "number" ? value : value.map((item) => coloured(item, key, colors));
    }
    if (value === null || typeof value !== "object") return value;
    const copy = {};
    for (const [name, inner] of Object.entries(value)) {
      copy[name] = coloured(inner, /color/.test(key) ? key : name, colors);
    }
    return copy;
  }

  function draw(plot) {
    const figure = figures.get(plot);
    const colors = themes[dark.matches && !printing ? "dark" : "light"];
    // A finger that scrolls the page past a chart must not zoom it: the buttons do that there.
    const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
    const given = { dragmode, ...figure.layout, template, uirevision: "kept" };
    if (plot.layout) {
      for (const name of axes(plot)) {
        given[name] = { ...given[name], range: [...plot._fullLayout[name].range], autorange: false };
      }
      if (!moved(plot)) for (const name of axes(plot)) given[name] = { ...figure.layout[name] };
    }
    const layout = coloured(given, "", colors);
    if (printing) layout.width = Math.min(plot.clientWidth || 680, 680);
    const config = { displayModeBar: false, responsive: false, doubleClick: "reset", showTips: false };
    return Plotly.react(plot, coloured(figure.data, "", colors), layout, config);
  }

  const axes = (plot) => (plot._fullLayout
    ? Object.keys(plot._fullLayout).filter((name) => /^[xy]axis\d*$/.test(name) && !plot._fullLayout[name].fixedrange)
    : []);
  const shown = (plot, name) => plot._fullLayout[name].range;
  const same = (a, b) => a.every((value, place) => Math.abs(value - b[place]) < 1e-9 * (1 + Math.abs(value)));
  const moved = (plot) => homes.has(plot) && axes(plot).some((name) => !same(homes.get(plot)[name], shown(plot, name)));
  const members = (group) => [...figures.keys()].filter((plot) => group && plot.parentElement.dataset.group === group);

  function keepHome(plot) {
    homes.set(plot, Object.fromEntries(axes(plot).map((name) => [name, [...shown(plot, name)]])));
  }

  function show(plot, ranges) {
    const wanted = Object.entries(ranges).filter(([name, range]) => axes(plot).includes(name) && !same(range, shown(plot, name)));
    if (wanted.length) {
      Plotly.relayout(plot, Object.fromEntries(wanted.map(([name, range]) => [`${name}.range`, [...range]])));
    }
  }

  function follow(plot) {
    plot.on("plotly_relayout", () => {
      const ranges = Object.fromEntries(axes(plot).map((name) => [name, [...shown(plot, name)]]));
      for (const other of members(plot.parentElement.dataset.group)) {
        if (other !== plot && figures.get(other).drawn) show(other, ranges);
      }
    });
  }

  /** The range after a step; never beyond all there is, unless that is where it was. */
  function stepped(range, home, how) {
    const centre = (range[0] + range[1]) / 2;
    let half = (range[1] - range[0]) / 2;
    let middle = centre;
    if (how === "in") half /= 2;
    if (how === "out") half *= 2;
    if (how === "back") middle -= half;
    if (how === "on") middle += half;
    const most = (home[1] - home[0]) / 2;
    if (Math.abs(half) >= Math.abs(most)) return [...home];
    const [low, high] = [Math.min(...home), Math.max(...home)];
    middle = Math.min(Math.max(middle, low + Math.abs(half)), high - Math.abs(half));
    return [middle - half, middle + half];
  }

  for (const tools of all(".tools[data-for]")) {
    tools.addEventListener("click", (event) => {
      const how = event.target.dataset.zoom;
      if (!how) return;
      for (const plot of members(tools.dataset.for)) {
        const home = homes.get(plot);
        const moving = axes(plot).filter((name) => how === "reset" || how === "in" || how === "out" || name[0] === "x");
        show(plot, Object.fromEntries(moving.map((name) =>
          [name, how === "reset" ? home[name] : stepped(shown(plot, name), home[name], how)])));
      }
    });
  }

  for (const picker of all(".picker[data-for]")) {
    picker.addEventListener("change", (event) => {
      const key = event.target.dataset.key;
      if (key === undefined) return;
      for (const plot of members(picker.dataset.for)) {
        const traces = figures.get(plot).data.filter((trace) => trace.meta === key);
        for (const trace of traces) trace.visible = event.target.checked;
        if (traces.length) draw(plot);
      }
    });
  }

  // A GPU that is picked of many gets its row of the map as a line.
  for (const select of all("select[data-pick]")) {
    select.addEventListener("change", () => {
      for (const plot of members(select.dataset.pick)) {
        const picked = figures.get(plot).data.find((trace) => trace.meta === "picked");
        const map = figures.get(plot).data.find((trace) => trace.type === "heatmap");
        if (!picked || !map) continue;
        const row = map.y.indexOf(select.value);
        picked.visible = row >= 0;
        if (row >= 0) { picked.y = map.z[row]; picked.name = select.value; }
        draw(plot);
      }
    });
  }

  function key(cell) {
    const written = cell.dataset.sort ?? cell.textContent.trim();
    return written !== "" && Number.isFinite(Number(written)) ? Number(written) : written;
  }
  for (const table of all("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const heading = event.target.closest("th");
      if (!event.target.closest("button") || !heading) return;
      const way = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of all("th", table.tHead)) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", way);
      const at = heading.cellIndex;
      const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[at]), row]);
      // Figures before words, so that what is not known comes last either way.
      rows.sort(([a], [b]) => {
        if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
        const order = typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
        return way === "ascending" ? order : -order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  }

  function redraw() { for (const [plot, figure] of figures) if (figure.drawn) draw(plot); }
  function print(on) {
    if (printing === on) return;
    printing = on;
    for (const part of all("details")) {
      if (on) { part.dataset.was = part.open ? "open" : ""; part.open = true; } else { part.open = part.dataset.was === "open"; }
    }
    redraw();
  }
  dark.addEventListener("change", redraw);
  paper.addEventListener("change", (event) => print(event.matches));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));

  const widths = new WeakMap();
  const watcher = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = target.clientWidth;
      if (width && widths.get(target) !== width && !printing) Plotly.relayout(target, { autosize: true });
      widths.set(target, width);
    }
  });

  for (const plot of all(".chart > .plot")) {
    figures.set(plot, JSON.parse(plot.parentElement.querySelector("script").textContent));
  }
  window.greenml = { figures, draw };

  // Here and now, before the document counts as loaded: whoever prints it then gets every chart.
  for (const [plot, figure] of figures) {
    draw(plot);
    figure.drawn = true;
    keepHome(plot);
    follow(plot);
    widths.set(plot, plot.clientWidth);
    watcher.observe(plot);
  }
  document.documentElement.dataset.charts = "drawn";
  performance.mark("charts-drawn");
})();
