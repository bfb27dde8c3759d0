// Small charts as SVG, by hand.  Every function returns an element; nothing here knows where the numbers come from.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const COLOURS = 4;  // classes s0 .. s3 of the style sheet

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(digits));
}

export function hourName(us) {
  const at = new Date(us / 1000);
  return `${String(at.getUTCHours()).padStart(2, "0")}:${String(at.getUTCMinutes()).padStart(2, "0")}`;
}

export function dayName(us) {
  return new Date(us / 1000).toLocaleDateString("en-GB", { timeZone: "UTC", weekday: "short", day: "numeric", month: "short" });
}

function niceRange(values, fromZero) {
  let low = Math.min(...values), high = Math.max(...values);
  if (fromZero) low = Math.min(low, 0);
  if (low === high) { low -= Math.abs(low) * 0.1 + (fromZero ? 0 : 0.001); high += Math.abs(high) * 0.1 + 0.001; }
  const room = (high - low) * 0.08;
  return [fromZero && low === 0 ? 0 : low - room, high + room];
}

// Lines over time.  `lines`: name -> values as long as `at` (us); `marks`: [{us, kind}]; `band`: [[low, high]]; `usual`: a level.
export function lines({ at, lines: named, band = null, usual = null, marks = [], height = 96, fromZero = false, label = "" }) {
  const left = 34, right = 4, top = 6, bottom = 16;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  const values = Object.values(named).flat().concat(band ? band.flat() : [], usual === null ? [] : [usual])
    .filter((value) => value !== null && Number.isFinite(value));
  if (!values.length || at.length < 1) {
    picture.append(svg("text", { x: left, y: height / 2 }, "no data yet"));
    return picture;
  }
  const [low, high] = niceRange(values, fromZero);
  const first = at[0], last = Math.max(at[at.length - 1], first + 3600e6);
  const x = (us) => left + ((us - first) / (last - first)) * (WIDTH - left - right);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  picture.append(svg("line", { class: "axis", x1: left, x2: WIDTH - right, y1: height - bottom, y2: height - bottom }));
  for (const level of [low + (high - low) * 0.06, high - (high - low) * 0.06]) {
    picture.append(svg("text", { x: left - 4, y: y(level) + 3, "text-anchor": "end" }, number(level, 2)));
  }
  picture.append(svg("text", { x: left, y: height - 4 }, hourName(first)));
  picture.append(svg("text", { x: WIDTH - right, y: height - 4, "text-anchor": "end" }, hourName(last)));
  if (band) {
    const there = band.map((pair, i) => [at[i], ...pair]).filter(([, a, b]) => Number.isFinite(a) && Number.isFinite(b));
    const upper = there.map(([us, , b]) => `${x(us)},${y(Math.min(b, high))}`);
    const lower = there.reverse().map(([us, a]) => `${x(us)},${y(Math.max(a, low))}`);
    picture.append(svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
  }
  if (usual !== null) {
    picture.append(svg("line", { class: "usual", x1: left, x2: WIDTH - right, y1: y(usual), y2: y(usual) }));
  }
  for (const mark of marks.filter((m) => m.us >= first && m.us <= last)) {
    const kind = { inject: "injected", alarm: "alarmed", heal: "healed", onset: "injected" }[mark.kind];
    if (kind) picture.append(svg("line", { class: kind, x1: x(mark.us), x2: x(mark.us), y1: top, y2: height - bottom }));
  }
  Object.values(named).forEach((series, i) => {
    let path = "", pen = false;
    series.forEach((value, k) => {
      if (value === null || !Number.isFinite(value)) { pen = false; return; }
      path += `${pen ? "L" : "M"}${x(at[k]).toFixed(1)},${y(value).toFixed(1)}`;
      pen = true;
    });
    picture.append(svg("path", { class: `line s${i % COLOURS}`, d: path }));
    if (series.length === 1) {
      picture.append(svg("circle", { class: `dot s${i % COLOURS}`, cx: x(at[0]), cy: y(series[0]), r: 2.5 }));
    }
  });
  return picture;
}

export function legend(names) {
  return make("p", { class: "legend" }, ...names.map((name, i) => {
    return make("span", {}, make("i", { class: `s${i % COLOURS}` }), name);
  }));
}

// Shares of rows by bin, usually and lately: two bars a bin.
export function shares({ labels, usual, lately, label }) {
  const used = labels.map((_, i) => i).filter((i) => usual[i] > 0 || lately[i] > 0);
  const row = 21, left = 96, right = 40, height = used.length * row + 4;
  const top = Math.max(...used.map((i) => Math.max(usual[i], lately[i])), 0.01);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  used.forEach((bin, k) => {
    const y = k * row + 2, width = WIDTH - left - right;
    const text = labels[bin].length > 17 ? `${labels[bin].slice(0, 16)}…` : labels[bin];
    picture.append(svg("text", { x: left - 5, y: y + 12, "text-anchor": "end" }, text));
    picture.append(svg("rect", { x: left, y, width: (usual[bin] / top) * width, height: 7, rx: 2, class: "before" }));
    picture.append(svg("rect", { x: left, y: y + 8, width: (lately[bin] / top) * width, height: 7, rx: 2, class: "since" }));
    picture.append(svg("text", { x: WIDTH - right + 4, y: y + 12 }, `${number(lately[bin] * 100, 2)}%`));
  });
  return picture;
}

// What happened when: stretches that were broken and incidents, with the delay between them.
export function timeline({ events, incidents, from, to, width = 460 }) {
  const left = 58, right = 8, height = 92;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Injections and incidents over simulated time" });
  const x = (us) => left + ((Math.min(Math.max(us, from), to) - from) / Math.max(to - from, 1)) * (width - left - right);
  const rows = { broken: 8, found: 38 };
  picture.append(svg("text", { x: 0, y: rows.broken + 13 }, "broken"), svg("text", { x: 0, y: rows.found + 13 }, "incident"));
  for (const y of Object.values(rows)) {
    picture.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y + 20, y2: y + 20 }));
  }
  events.forEach((event, i) => {
    if (event.kind !== "inject") return;
    const end = events.slice(i).find((later) => later.kind === "heal");
    const until = end ? end.at_us : to;
    if (until < from) return;
    const start = x(event.at_us);
    picture.append(svg("rect", { x: start, y: rows.broken, width: Math.max(x(until) - start, 2), height: 17, rx: 3, class: "stretch amber" }));
    const fits = x(until) - start > 50;  // otherwise the code stands before it
    picture.append(svg("text", { x: fits ? start + 3 : start - 3, y: rows.broken + 12, class: "amber", "text-anchor": fits ? "start" : "end" },
      fits || !end ? event.code : ""));
  });
  for (const incident of incidents) {
    const until = incident.open ? to : incident.ended_us;
    if (until < from) continue;
    const start = x(incident.opened_us);
    picture.append(svg("rect", { x: start, y: rows.found, width: Math.max(x(until) - start, 2), height: 17, rx: 3, class: "stretch red" }));
    if (x(until) - start > 26) picture.append(svg("text", { x: start + 3, y: rows.found + 12, class: "red" }, `#${incident.number}`));
    if (incident.injected_us && incident.injected_us >= from) {
      const begin = x(incident.injected_us);
      picture.append(svg("line", { class: "alarmed", x1: begin, x2: begin, y1: rows.broken + 17, y2: rows.found + 8 }));
      picture.append(svg("line", { class: "alarmed", x1: begin, x2: start, y1: rows.found + 8, y2: rows.found + 8 }));
    }
  }
  picture.append(svg("text", { x: left, y: height - 6 }, `${dayName(from)} ${hourName(from)}`));
  picture.append(svg("text", { x: width - right, y: height - 6, "text-anchor": "end" }, `${dayName(to)} ${hourName(to)}`));
  return picture;
}
