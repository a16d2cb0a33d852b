// Draws every chart of a page from the JSON inside it: values at the pointer, lines to hide, a log axis. Needs nothing else.
"use strict";
(() => {
  const DASHES = ["", "6 4", "2 3"], LEFT = 58, RIGHT = 14, TOP = 10, BOTTOM = 40, REACH = 26;

  function make(name, attributes, parent) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  }

  function html(name, className, text, parent) {
    const element = document.createElement(name);
    element.className = className;
    element.textContent = text;
    parent.append(element);
    return element;
  }

  function button(text, pressed, parent, act) {
    const element = html("button", "chip", text, parent);
    element.type = "button";
    element.setAttribute("aria-pressed", pressed);
    element.addEventListener("click", act);
    return element;
  }

  function count(value) {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
      if (Math.abs(value) >= size) return `${+(value / (unit === "k" ? 1e3 : size)).toPrecision(3)} ${unit}`;
    return `${+value.toPrecision(4)}`;
  }

  function shown(value, isShare) {
    if (isShare) return `${(100 * value).toFixed(2)} %`;
    const size = Math.abs(value);
    return value === 0 || (size >= 5e-5 && size < 1e4) ? value.toFixed(4) : `${+value.toPrecision(3)}`;
  }

  function niceStep(span, most, whole) {
    const power = 10 ** Math.floor(Math.log10(span / most));
    const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((each) => span / each <= most);
    return whole ? Math.max(1, Math.ceil(step)) : step;
  }

  function ticks(low, high, most, whole) {
    const step = niceStep(high - low || 1, most, whole), found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) found.push(+(at * step).toPrecision(12));
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of [1, 2, 5]) {
        const at = digit * 10 ** power;
        if (at >= low && at <= high) found.push(at);
      }
    return found.length > 1 ? found : ticks(low, high, 4, false).filter((at) => at > 0);
  }

  function start(figure) {
    const chart = JSON.parse(figure.querySelector("script").textContent);
    const hidden = new Set();
    let panel = chart.panels[0], isLog = false, drawn = [];
    const head = html("div", "chart-head", "", figure);
    html("b", "", chart.title, head);
    const svg = make("svg", { role: "img", "aria-label": chart.title }, figure);
    const tip = html("div", "tip", "", figure);
    tip.hidden = true;

    const switches = chart.panels.length < 2 ? [] : chart.panels.map((each) =>
      button(each.place, each === panel, head, () => {
        panel = each;
        switches.forEach((other, place) => other.setAttribute("aria-pressed", chart.panels[place] === panel));
        draw();
      }));
    const values = chart.panels.flatMap((each) => each.lines.flatMap((line) => line.points.map((point) => point[1])));
    if (values.length && Math.min(...values) > 0) {
      const log = button("log", false, head, () => {
        isLog = !isLog;
        log.setAttribute("aria-pressed", isLog);
        draw();
      });
    }
    const legend = html("div", "legend", "", figure);
    const labels = new Map(panel.lines.map((line) => [line.label, line]).reverse());
    for (const [label, line] of [...labels].reverse()) {
      const key = button(label, true, legend, () => {
        hidden.has(label) ? hidden.delete(label) : hidden.add(label);
        key.setAttribute("aria-pressed", !hidden.has(label));
        draw();
      });
      const swatch = make("svg", { width: 22, height: 10, "aria-hidden": true });
      make("line", { x1: 1, x2: 21, y1: 5, y2: 5, stroke: line.colour || "currentColor", "stroke-width": 2.5,
        "stroke-dasharray": DASHES[line.dash] }, swatch);
      key.prepend(swatch);
    }

    // an interval of a share, seen no further than a share goes
    const within = (value) => chart.is_share ? Math.min(1, Math.max(0, value)) : value;

    function extent(lines) {
      let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
      for (const line of lines)
        for (const [x, y, half] of line.points) {
          left = Math.min(left, x); right = Math.max(right, x);
          low = Math.min(low, isLog ? y : within(y - (half || 0))); high = Math.max(high, within(y + (half || 0)));
        }
      if (chart.level !== null && !isLog) { low = Math.min(low, chart.level); high = Math.max(high, chart.level); }
      if (panel.names.length) { left = -0.4; right = panel.names.length - 0.6; }
      if (right === left) { left -= 0.5; right += 0.5; }
      if (high === low) { const around = Math.abs(low) / 10 || 1; low -= isLog ? 0 : around; high += around; }
      const space = isLog ? 0 : 0.05 * (high - low);
      return [left, right, low - space, high + space];
    }

    function draw() {
      svg.replaceChildren();
      tip.hidden = true;
      const lines = panel.lines.filter((line) => !hidden.has(line.label) && line.points.length);
      const width = Math.max(260, figure.clientWidth - 24), height = Math.round(Math.max(210, Math.min(340, 0.5 * width)));
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      drawn = [];
      if (!lines.length) return;
      const [left, right, low, high] = extent(lines);
      const scale = isLog ? Math.log10 : (value) => value;
      const X = (x) => LEFT + (x - left) / (right - left) * (width - LEFT - RIGHT);
      const Y = (y) => TOP + (scale(high) - scale(Math.max(y, isLog ? low : -Infinity))) / (scale(high) - scale(low)) * (height - TOP - BOTTOM);
      axes(lines, X, Y, left, right, low, high, width, height);
      for (const line of lines) one(line, X, Y);
    }

    function axes(lines, X, Y, left, right, low, high, width, height) {
      const grid = make("g", { class: "grid" }, svg), words = make("g", { class: "ticks" }, svg);
      for (const at of isLog ? logTicks(low, high) : ticks(low, high, 6, false)) {
        make("line", { x1: LEFT, x2: width - RIGHT, y1: Y(at), y2: Y(at) }, grid);
        make("text", { x: LEFT - 7, y: Y(at) + 4, "text-anchor": "end" }, words).textContent =
          chart.is_share ? `${+(100 * at).toPrecision(6)} %` : count(at);
      }
      const whole = panel.lines.every((line) => line.points.every((point) => Number.isInteger(point[0])));
      const places = panel.names.length ? panel.names.map((name, at) => [at, name])
        : ticks(left, right, width < 420 ? 4 : 7, whole).map((at) => [at, count(at)]);
      for (const [at, name] of places) {
        make("line", { x1: X(at), x2: X(at), y1: TOP, y2: height - BOTTOM }, grid);
        make("text", { x: X(at), y: height - BOTTOM + 16, "text-anchor": "middle" }, words).textContent = name;
      }
      make("text", { x: (LEFT + width - RIGHT) / 2, y: height - 5, "text-anchor": "middle" }, words).textContent = panel.place;
      make("text", { x: 0, y: 0, transform: `translate(11 ${(TOP + height - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" },
        words).textContent = chart.value;
      if (chart.level !== null && !isLog)
        make("line", { class: "dotted", x1: LEFT, x2: width - RIGHT, y1: Y(chart.level), y2: Y(chart.level) }, svg);
      if (chart.place !== null)
        make("line", { class: "dotted", x1: X(chart.place), x2: X(chart.place), y1: TOP, y2: height - BOTTOM }, svg);
    }

    function one(line, X, Y) {
      const colour = line.colour || "currentColor", group = make("g", { stroke: colour, fill: colour }, svg);
      const points = line.points.map(([x, y, half]) => ({ x: X(x), y: Y(y), at: x, value: y, half, line,
        low: half === null ? null : Y(within(y - half)), high: half === null ? null : Y(within(y + half)) }));
      const known = points.filter((point) => point.half !== null);
      if (line.bars)
        for (const point of known) make("line", { x1: point.x, x2: point.x, y1: point.low, y2: point.high }, group);
      else if (known.length > 1) {
        const edge = [...known.map((point) => `${point.x},${point.high}`), ...known.map((point) => `${point.x},${point.low}`).reverse()];
        make("polygon", { points: edge.join(" "), stroke: "none", opacity: 0.14 }, group);
      }
      if (line.joined)
        make("polyline", { points: points.map((point) => `${point.x},${point.y}`).join(" "), fill: "none",
          "stroke-width": line.marked ? 1.8 : 1.1, "stroke-dasharray": DASHES[line.dash] }, group);
      if (line.marked || !line.joined || points.length === 1)
        for (const point of points)
          make("circle", { cx: point.x, cy: point.y, r: line.joined ? 3 : 4, stroke: "none", opacity: line.joined ? 1 : 0.45 }, group);
      drawn.push(points);
    }

    function point(event) {
      const box = svg.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      const distance = (each) => (each.x - x) ** 2 + 0.1 * (each.y - y) ** 2;
      const nearest = drawn.flat().reduce((best, each) => !best || distance(each) < distance(best) ? each : best, null);
      svg.querySelector(".here")?.remove();
      tip.hidden = nearest === null;
      if (!nearest) return;
      const here = make("g", { class: "here" }, svg);
      make("line", { x1: nearest.x, x2: nearest.x, y1: TOP, y2: svg.viewBox.baseVal.height - BOTTOM }, here);
      tip.replaceChildren();
      const place = panel.names.length ? panel.names[Math.round(nearest.at)] : count(nearest.at);
      html("b", "", `${panel.place}: ${place}`, tip);
      for (const points of drawn) {
        const close = points.filter((each) => Math.abs(each.x - nearest.x) <= REACH)
          .sort((a, b) => Math.abs(a.x - nearest.x) - Math.abs(b.x - nearest.x))[0];
        if (!close) continue;
        make("circle", { cx: close.x, cy: close.y, r: 5, stroke: close.line.colour || "currentColor", fill: "none" }, here);
        const spread = close.half === null ? "" : ` ± ${shown(close.half, chart.is_share)}`;
        const row = html("div", "", `${close.line.label}: ${shown(close.value, chart.is_share)}${spread}`, tip);
        row.style.borderLeftColor = close.line.colour || "currentColor";
      }
      const inside = figure.getBoundingClientRect();
      tip.style.top = `${box.top - inside.top + TOP}px`;
      const right = nearest.x > box.width / 2;
      tip.style.left = right ? "auto" : `${box.left - inside.left + nearest.x + 12}px`;
      tip.style.right = right ? `${inside.right - box.left - nearest.x + 12}px` : "auto";
    }

    figure.append(...figure.querySelectorAll("figcaption"));  // below
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", () => {
      tip.hidden = true;
      svg.querySelector(".here")?.remove();
    });
    let width = 0;
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) { width = figure.clientWidth; draw(); }
    }).observe(figure);
    draw();
  }

  document.querySelectorAll("figure.chart").forEach(start);
})();
