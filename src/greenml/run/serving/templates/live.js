"use strict";
(() => {
  const POINTS = 600, SPAN_SECONDS = 600, SHORTEST_SECONDS = 60, GAP_SECONDS = 30;
  const TILES = ["watts_now", "joules_per_token", "grams_per_request", "idle_ratio"];
  const UNITS = { watts_now: "W", joules_per_token: "J", grams_per_request: "g CO2e", idle_ratio: "%" };
  const points = [];
  const state = document.getElementById("state");

  const digits = value => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: size >= 1000 ? 6 : 3 });
  };
  const scaled = (value, unit) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size >= 1e6) return `${digits(value / 1e6)} M${unit}`;
    if (size >= 1e3) return `${digits(value / 1e3)} k${unit}`;
    if (size > 0 && size < 1e-3) return `${digits(value * 1e6)} µ${unit}`;
    if (size > 0 && size < 1) return `${digits(value * 1e3)} m${unit}`;
    return `${digits(value)} ${unit}`;
  };
  const dollars = value => value === null || value === undefined ? "–" : `$${digits(value)}`;
  const percent = value => value === null || value === undefined ? "–" : `${digits(value * 100)} %`;
  const count = value => value === null || value === undefined ? "–" : value.toLocaleString("en");
  const TOTALS = {
    requests: count, in_flight: count, tokens: count, request_joules: value => scaled(value, "J"),
    idle_joules: value => scaled(value, "J"), idle_energy_ratio: percent, joules_per_token: value => scaled(value, "J"),
    co2e_grams: value => scaled(value, "g"), cost_usd: dollars,
  };

  function add(point) {
    const last = points[points.length - 1];
    if (point && point.unix_seconds && (!last || point.unix_seconds > last.unix_seconds)) points.push(point);
    while (points.length > POINTS) points.shift();
  }

  function draw(key) {
    const tile = document.getElementById(key), factor = key === "idle_ratio" ? 100 : 1;
    const end = points.length ? points[points.length - 1].unix_seconds : 0;
    const seen = points.filter(point => point.unix_seconds >= end - SPAN_SECONDS);
    const span = Math.max(SHORTEST_SECONDS, seen.length ? end - seen[0].unix_seconds : 0);
    const known = seen.filter(point => point[key] !== null).map(point => point[key] * factor);
    const latest = seen.length ? seen[seen.length - 1][key] : null;
    const unit = UNITS[key], shown = key === "idle_ratio" ? percent(latest) : scaled(latest, unit);
    const [number, ...rest] = shown.split(" ");
    tile.querySelector(".value").textContent = number;
    tile.querySelector(".unit").textContent = rest.join(" ") || unit;
    tile.dataset.value = latest;
    const most = key === "idle_ratio" ? 100 : known.reduce((a, b) => Math.max(a, b), 0) || 1;
    let path = "", before = null;
    for (const point of seen) {
      if (point[key] === null) { before = null; continue; }
      const x = 600 - (end - point.unix_seconds) / span * 600, y = 98 - point[key] * factor / most * 96;
      const joined = before !== null && point.unix_seconds - before < GAP_SECONDS;
      path += `${joined ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`;
      if (!joined) path += `h0.1`;
      before = point.unix_seconds;
    }
    tile.querySelector("path").setAttribute("d", path);
    tile.querySelector(".span").textContent = `last ${digits(Math.round(span / 60))} min`;
    tile.querySelector(".most").textContent = key === "idle_ratio" ? "0 to 100 %" : `0 to ${scaled(most, unit)}`;
  }

  function table(groups) {
    const rows = groups.map(group => {
      const row = document.createElement("tr");
      const cells = [group.model || "–", group.kind || "–", count(group.requests), count(group.tokens),
        scaled(group.joules, "J"), scaled(group.grams, "g"), dollars(group.usd)];
      cells.forEach((text, at) => {
        const cell = document.createElement(at === 0 ? "th" : "td");
        if (at === 0) cell.scope = "row";
        if (at > 1) cell.className = "figure";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    });
    document.getElementById("groups").replaceChildren(...rows);
  }

  function take(text) {
    const news = JSON.parse(text);
    (news.history || []).forEach(add);
    add(news.live);
    TILES.forEach(draw);
    for (const [key, format] of Object.entries(TOTALS)) {
      const cell = document.querySelector(`[data-total=${key}]`);
      cell.textContent = format(news.totals[key]);
      cell.dataset.value = news.totals[key];
    }
    table(news.totals.groups);
    document.documentElement.dataset.events = Number(document.documentElement.dataset.events || 0) + 1;
  }

  function say(name, text) {
    if (state.dataset.state !== name) state.dataset.state = name;
    if (state.textContent !== text) state.textContent = text;
  }

  let away = 0;
  function listen() {
    const source = new EventSource(document.body.dataset.events);
    source.onmessage = message => { away = 0; take(message.data); say("live", "live"); };
    source.onerror = () => {
      // A stream ends every few seconds and is opened again at once; what fails twice is a server that is away.
      away += 1;
      if (away > 1) say("away", "the server does not answer; the figures are its last ones");
      if (source.readyState === EventSource.CLOSED) { source.close(); setTimeout(listen, 1000); }
    };
  }
  listen();
})();
