// The control room's page: asks for the state once a second, shows it, and sends what a person wants done.

import { dayName, hourName, legend, lines, make, number, shares, timeline } from "./draw.js";

const HOUR = 3600e6;
const byId = (id) => document.getElementById(id);
const token = takeToken();
let about = null, state = null, shown = null, drawn = {}, chosen = null, speedBefore = 720;

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("drill-token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("drill-token") || "";
}

async function send(path, body = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Drill-Token": token },
    body: JSON.stringify(body),
  });
  const said = await answer.json();
  if (!answer.ok) {
    trouble(typeof said.detail === "string" ? said.detail : `the page was answered ${answer.status}`);
    return;
  }
  trouble(null);
  show(said);
}

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text || "";
}

async function poll() {
  try {
    const answer = await fetch("api/state");
    show(await answer.json());
    if (byId("trouble").dataset.kind === "lost") trouble(null);
    byId("trouble").dataset.kind = "";
  } catch {
    byId("trouble").dataset.kind = "lost";
    trouble("The control room does not answer: it was stopped, or this computer is very busy.");
  }
  setTimeout(poll, 1000);
}

// ---- what is shown ------------------------------------------------------------------------------------------------

function show(now) {
  state = now;
  byId("now").textContent = `${dayName(now.now_us)}, ${hourName(now.now_us)} UTC`;
  byId("pace-text").textContent = paceText(now.speed);
  byId("pause").textContent = now.speed === 0 ? "Go on" : "Pause";
  byId("pause").setAttribute("aria-pressed", now.speed === 0);
  if (now.speed > 0) speedBefore = now.speed;
  const place = about.speeds.findIndex((speed) => speed >= now.speed);
  if (document.activeElement !== byId("speed")) byId("speed").value = place;
  if (now.failure) trouble(`Time stands still: ${now.failure}`);
  showBanner();
  showFlow();
  once("charts", `${last()?.start_us} ${now.timeline.length}`, showCharts);
  showLatency();
  once("timeline", `${Math.floor(now.now_us / 300e6)} ${now.timeline.length} ${now.incidents.length}`, showTimeline);
  once("bugs", `${now.injection?.code}`, showBugs);
  showIncident();
  once("past", JSON.stringify(now.incidents.map((one) => [one.number, one.state, one.title])), showPast);
}

function once(what, key, draw) {
  if (drawn[what] === key) return;
  drawn[what] = key;
  draw();
}

const last = () => state.hours[state.hours.length - 1];
const openIncident = () => state.incidents.filter((one) => ["new", "acknowledged"].includes(one.state)).pop();

function paceText(speed) {
  if (speed === 0) return "paused";
  if (speed >= 1e6) return "as fast as it goes";
  if (speed === 1) return "real time";
  const seconds = 3600 / speed;
  return seconds >= 60 ? `an hour in ${number(seconds / 60)} min` : `an hour in ${number(seconds)} s`;
}

function showBanner() {
  const incident = openIncident(), injected = state.injection;
  const banner = byId("banner");
  banner.dataset.state = incident ? "alarm" : injected ? "broken" : "calm";
  byId("heal").hidden = !injected;
  byId("to-bugs").hidden = Boolean(injected || incident);
  byId("heal").disabled = !token;
  byId("heal").textContent = injected ? `Heal ${injected.code}` : "Heal";
  let text = state.hours.length ? "All quiet. Nothing is broken, and nothing is found." : "Running. The first hour is not over yet.";
  if (incident) text = `Incident ${incident.number}: ${incident.title}`;
  if (incident && !injected) text += incident.delay ? " (healed: it closes after three quiet windows)" : " (nothing is injected)";
  if (injected && !incident) {
    const hours = Math.max((state.now_us - injected.onset_us) / HOUR, 0);
    text = `${injected.code} ${injected.name} is in force for ${number(hours, 2)} h; nothing is found yet.`;
  }
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

const NODE_OF = {
  traffic: "Requests", market: "Labels", events: "Ingestion", labels: "Labels", feature: "Features", store: "Features",
  features: "Features", input: "Model", model: "Model", log: "Prediction log", assignment: "Policy",
};

function percent(share, digits = 2) {
  return share === null || share === undefined ? "–" : `${number(share * 100, digits)}%`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${number(seconds, 2)} s`;
  return seconds < 7200 ? `${number(seconds / 60, 2)} min` : `${number(seconds / 3600, 2)} h`;
}

function showFlow() {
  const hour = last() || {}, vitals = state.vitals;
  const arms = Object.entries(hour.arms || {}).sort().map(([arm, share]) => `${arm} ${percent(share)}`).join(", ");
  const models = Object.entries(hour.models || {}).sort((a, b) => b[1] - a[1]);
  const open = openIncident();
  const nodes = [
    ["Requests", `${number(vitals.requests_s, 2)}/s`, `${number(hour.requests)} in the hour${vitals.failed ? `, ${vitals.failed} without an answer` : ""}`],
    ["Features", duration(hour.ages?.user_recent), `old (recent activity); ${percent(hour.fallback ?? null)} fall back`],
    ["Model", (models[0]?.[0] || about.model).slice(0, 8), `${about.family}; p50 ${number(vitals.p50_ms, 2)} ms, p99 ${number(vitals.p99_ms, 2)} ms${models.length > 1 ? `; ${models.length} versions` : ""}`],
    ["Policy", percent(hour.randomised ?? null), `in random order; arms ${arms || "–"}`],
    ["Prediction log", number(hour.impressions), `ads logged in the hour, mean p ${number(hour.p, 3)}`],
    ["Ingestion", number(hour.landed), `landed; ${number(hour.duplicates)} twice, ${number(hour.refused)} refused`],
    ["Labels", number(hour.clicks), `clicks joined of ${number(hour.accepted_clicks)}; ${number(hour.waiting)} wait`],
    ["Monitors", open ? "alarm" : state.hours.length ? "quiet" : "–", `${state.checks.ran.length} checks, ${Object.keys(state.checks.skipped).length} cannot judge yet`],
  ];
  const list = byId("flow");
  if (list.children.length !== nodes.length) {
    list.replaceChildren(...nodes.map(([name]) => make("li", {}, make("b", {}, name), make("strong"), make("span"))));
  }
  nodes.forEach(([name, big, small], i) => {
    const [, strong, span] = list.children[i].children;
    if (strong.textContent !== big) strong.textContent = big;
    if (span.textContent !== small) span.textContent = small;
    list.children[i].toggleAttribute("data-broken", Boolean(state.injection && NODE_OF[state.injection.stage] === name));
    list.children[i].toggleAttribute("data-alarm", Boolean(open && name === "Monitors"));
  });
}

function marks() {
  return state.timeline.filter((event) => ["inject", "alarm", "heal"].includes(event.kind)).map((event) => ({ us: event.at_us, kind: event.kind }));
}

function chart(title, value, picture, names = null) {
  return make("figure", { class: "chart" }, make("figcaption", {}, make("b", {}, title), make("span", {}, value)), picture, names ? legend(names) : null);
}

function showCharts() {
  const hours = state.hours.slice(-60), at = hours.map((hour) => hour.start_us), hour = last();
  if (!hour) {
    byId("charts").replaceChildren(make("p", { class: "quiet" }, "Charts come with the first hour."));
    return;
  }
  const of = (name) => hours.map((one) => one[name]);
  const draw = (title, value, named, more = {}) =>
    chart(title, value, lines({ at, lines: named, marks: marks(), label: `${title} by the hour, now ${value}`, ...more }),
      Object.keys(named).length > 1 ? Object.keys(named) : null);
  const usual = state.usual_ratio;
  const arms = [...new Set(hours.flatMap((one) => Object.keys(one.arms)))].sort();
  const ages = ["user_recent", "user_daily", "ad_daily"].filter((view) => hour.ages[view] !== undefined);
  byId("charts").replaceChildren(
    draw("Traffic, ads an hour", number(hour.impressions), { shown: of("impressions"), landed: of("landed") }, { fromZero: true }),
    draw("Click rate", percent(hour.ctr, 3), { ctr: of("ctr").map((rate) => (rate === null ? null : rate * 100)) }),
    draw("Calibration: clicks over expected", number(hour.ratio, 3), { ratio: of("ratio") },
      { usual, band: hours.map((one) => [usual - (one.band ?? NaN), usual + (one.band ?? NaN)]) }),
    draw("Normalised entropy, last day", number(hour.ne, 4), { ne: of("ne") }),
    draw("Feature age, hours", duration(hour.ages.user_recent),
      Object.fromEntries(ages.map((view) => [view, hours.map((one) => (one.ages[view] ?? null) === null ? null : one.ages[view] / 3600)])), { fromZero: true }),
    draw("Arms, share of ads", arms.map((arm) => percent(hour.arms[arm] ?? 0)).join(" / "),
      Object.fromEntries(arms.map((arm) => [arm, hours.map((one) => one.arms[arm] ?? 0)]))),
    movedChart(),
    make("div", { id: "latency" }),
  );
}

function movedChart() {
  const top = Math.max(...state.moved.map((one) => one.times), 5);
  const rows = state.moved.flatMap(({ name, times }) => {
    const fill = make("i");
    fill.style.width = `${Math.min((times / top) * 100, 100)}%`;
    return [make("span", { title: name }, name), make("span", { class: "bar" }, fill), make("em", {}, `${times.toFixed(1)}×`)];
  });
  return chart("What moved most, against a usual day", "", make("div", { class: "bars" }, ...rows));
}

const pulse = [];
function showLatency() {
  if (state.vitals.p50_ms !== null) pulse.push({ us: state.now_us, p50: state.vitals.p50_ms, p99: state.vitals.p99_ms });
  if (pulse.length > 60) pulse.shift();
  const now = pulse[pulse.length - 1];
  byId("latency")?.replaceChildren(chart("Latency of the endpoint, ms", now ? `p99 ${number(now.p99, 2)}` : "–", lines({
    at: pulse.map((one) => one.us), lines: { p50: pulse.map((one) => one.p50), p99: pulse.map((one) => one.p99) }, fromZero: true, label: "Latency, p50 and p99",
  }), ["p50", "p99"]));
}

// ---- timeline -----------------------------------------------------------------------------------------------------

const KINDS = { inject: "injected", alarm: "alarm", heal: "healed", resolved: "resolved", acknowledged: "acknowledged", "false-alarm": "false alarm" };

function showTimeline() {
  const to = state.now_us, from = Math.max(state.started_us, to - 48 * HOUR);
  const ended = (one) => state.timeline.filter((e) => e.number === one.number && ["resolved", "false-alarm"].includes(e.kind)).pop()?.at_us;
  const incidents = state.incidents.map((one) => ({
    ...one, open: ["new", "acknowledged"].includes(one.state), ended_us: ended(one) ?? one.updated_us,
    injected_us: one.delay ? one.opened_us - one.delay.hours * HOUR : null,
  }));
  const width = byId("timeline-figure").clientWidth || 460;  // drawn in pixels: its text keeps its size on a phone
  byId("timeline-figure").replaceChildren(timeline({ events: state.timeline, incidents, from, to, width }));
  const items = state.timeline.slice(-30).reverse().map((event) => {
    const found = event.kind === "alarm" && state.incidents.find((one) => one.number === event.number)?.delay;
    const after = found ? `, ${number(found.hours, 2)} h after ${found.code} was injected` : "";
    return make("li", {}, make("time", {}, `${dayName(event.at_us).split(",")[0].split(" ")[0]} ${hourName(event.at_us)}`),
      make("span", { class: "tag", "data-kind": event.kind }, KINDS[event.kind] || event.kind),
      make("span", {}, `${event.code ? `${event.code} ` : ""}${event.number ? `${event.number}. ` : ""}${event.text}${after}`));
  });
  byId("events").replaceChildren(...(items.length ? items : [make("li", { class: "quiet" }, "Nothing has happened yet.")]));
}

// ---- bugs ---------------------------------------------------------------------------------------------------------

function showBugs() {
  const words = byId("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean), stage = byId("stage").value;
  const fits = about.bugs.filter((bug) => {
    const text = [bug.code, bug.name, bug.class, bug.stage, bug.story].join(" ").toLowerCase();
    return (!stage || bug.stage === stage) && words.every((word) => text.includes(word));
  }).sort((a, b) => Boolean(a.not_here) - Boolean(b.not_here));
  byId("found").textContent = `${fits.length} of ${about.bugs.length}`;
  byId("bugs").replaceChildren(...fits.map(bugCard));
}

function bugCard(bug) {
  const now = state?.injection?.code === bug.code;
  const doses = Object.entries(bug.doses).map(([name, dose]) =>
    make("button", {
      type: "button", class: "small", "data-code": bug.code, "data-intensity": name, disabled: Boolean(!token || state?.injection),
      title: `${bug.dose_means}: ${dose}`, "aria-label": `Inject ${bug.code} ${bug.name}, ${name} (${bug.dose_means} ${dose})`,
      onclick: () => send("api/inject", { code: bug.code, intensity: name }),
    }, name));
  return make("li", { "data-now": now },
    make("p", { class: "title" }, make("b", {}, `${bug.code} ${bug.name}`), make("span", { class: "tag" }, bug.stage)),
    make("p", { class: "quiet mono" }, bug.class),
    make("p", { class: "story" }, bug.story),
    bug.not_here ? make("p", { class: "why" }, bug.not_here)
      : make("p", { class: "doses" }, make("span", { class: "quiet" }, now ? "in force" : "Inject:"), ...(now ? [] : doses)));
}

// ---- incidents ----------------------------------------------------------------------------------------------------

async function showIncident() {
  const one = state.incidents.find((incident) => incident.number === chosen) || openIncident();
  const panel = byId("alarm");
  if (!one) { panel.hidden = true; shown = null; return; }
  if (panel.dataset.number !== String(one.number)) panel.hidden = true; // until it holds this incident and not the one before
  const key = `${one.number} ${one.state} ${one.updated_us} ${one.title} ${last()?.start_us}`;
  if (shown === key) return;
  shown = key;
  const answer = await fetch(`api/incidents/${one.number}`).catch(() => null); // that nobody answers is said where state is asked for
  if (shown !== key) return;
  if (!answer?.ok) { shown = null; return; } // asked again with the next state
  const whole = await answer.json();
  const heading = `Incident ${one.number}: ${one.title}`;
  if (byId("incident").textContent !== heading) byId("incident").replaceChildren(make("h3", {}, heading));
  byId("incident-body").replaceChildren(facts(one), make("div", { class: "columns" }, why(whole), pictures(whole), what(one, whole)));
  panel.dataset.number = one.number;
  panel.hidden = false;
}

function facts(one) {
  const at = (us) => `${dayName(us)} ${hourName(us)}`;
  const delay = one.delay ? make("span", { id: "delay" }, "found ", make("b", {}, `${number(one.delay.hours, 2)} h`), ` after ${one.delay.code} was injected`) : null;
  return make("p", { class: "facts" },
    make("span", { class: "tag", "data-kind": one.state }, one.state.replace("-", " ")),
    make("span", {}, "opened ", make("b", {}, at(one.opened_us))),
    make("span", {}, "since about ", make("b", {}, at(one.onset_us ?? one.opened_us))), delay);
}

function why(whole) {
  const list = whole.hypotheses.filter((hypothesis, i) => !i || hypothesis.score >= 0.01).slice(0, 4).map((hypothesis, i) => make("li", { class: i ? "lesser" : "first" },
    make("p", { class: "name" }, make("span", {}, `${hypothesis.title}: ${hypothesis.subject}`), make("span", {}, percent(hypothesis.score))),
    make("ul", {}, ...hypothesis.because.slice(0, i ? 1 : 4).map((sentence) => make("li", {}, sentence)))));
  return make("div", {}, make("h4", {}, "What it looks like, and why"), make("ol", { class: "hypotheses" }, ...list));
}

const SERIES = {
  ratio: "Clicks over expected clicks; shaded: what chance leaves around the usual", ne: "Normalised entropy of the last day",
  clicks: "Clicks by the hour", duplicates: "Events delivered again, by the hour", refused: "Rows refused by the contract, by the hour",
  landed: "Impressions landed, by the hour", joined: "Clicks accepted and clicks joined, by the hour", age: "Age of feature views, s",
  models: "Share of predictions by model", arms: "Share of ads by arm",
};

function pictures(whole) {
  const drawnOnes = whole.pictures.map((picture) => {
    if (picture.kind === "shape") {
      const text = `${picture.subject}: share of rows by value, usually and since the onset`;
      return make("figure", { class: "picture" }, make("figcaption", {}, make("b", { class: "mono" }, picture.subject), " by value, share of rows"),
        shares({ ...picture, label: text }), legendOfShares(picture.rows));
    }
    const names = Object.keys(picture.lines);
    return make("figure", { class: "picture" }, make("figcaption", {}, SERIES[picture.series] || picture.series),
      lines({ at: picture.at_us, lines: picture.lines, band: picture.band || null, marks: marks(), height: 120, label: SERIES[picture.series] || picture.series }),
      names.length > 1 ? legend(names) : null);
  });
  const none = make("p", { class: "quiet" }, "The numbers stand in the sentences on the left.");
  return make("div", { id: "evidence" }, make("h4", {}, "Evidence"), ...(drawnOnes.length ? drawnOnes : [none]));
}

function legendOfShares(rows) {
  return make("p", { class: "legend" }, make("span", {}, make("i", { class: "before" }), "usual at these hours"),
    make("span", {}, make("i", { class: "since" }), `since the onset (${number(rows)} rows)`));
}

function what(one, whole) {
  const open = ["new", "acknowledged"].includes(one.state), steps = whole.runbook || { first: [], heal: [] };
  const act = (label, word) => make("button", { type: "button", disabled: !token, onclick: () => send(`api/incidents/${one.number}/${word}`) }, label);
  return make("div", {},
    make("h4", {}, "Look first"), make("ol", { class: "runbook" }, ...steps.first.map((step) => make("li", {}, step))),
    make("h4", {}, "Then"), make("ol", { class: "runbook" }, ...steps.heal.map((step) => make("li", {}, step))),
    make("p", {}, make("a", { href: `api/incidents/${one.number}/report`, target: "_blank", rel: "noopener" }, "Evidently report of these hours")),
    make("div", { class: "actions" },
      open && one.state === "new" ? act("Acknowledge", "acknowledged") : null, open ? act("False alarm", "false-alarm") : null,
      chosen ? make("button", { type: "button", onclick: () => choose(null) }, "Close") : null));
}

async function choose(number_) {
  chosen = number_;
  shown = null;
  await showIncident();
  if (number_) byId("alarm").scrollIntoView({ block: "start" });
}

function showPast() {
  byId("no-past").hidden = state.incidents.length > 0;
  byId("past").replaceChildren(...state.incidents.slice().reverse().map((one) => make("li", {},
    make("span", { class: "tag", "data-kind": one.state }, one.state.replace("-", " ")),
    make("span", {}, make("button", { type: "button", onclick: () => choose(one.number) }, `${one.number}. ${one.title}`),
      make("br"), make("span", { class: "quiet" }, `${dayName(one.opened_us)} ${hourName(one.opened_us)}`,
        one.delay ? `, ${number(one.delay.hours, 2)} h after ${one.delay.code}` : "")))));
}

// ---- start --------------------------------------------------------------------------------------------------------

byId("pause").addEventListener("click", () => send("api/speed", { speed: state.speed === 0 ? speedBefore : 0 }));
byId("speed").addEventListener("change", (event) => send("api/speed", { speed: about.speeds[Number(event.target.value)] }));
byId("heal").addEventListener("click", () => send("api/heal"));
byId("search").addEventListener("input", showBugs);
byId("stage").addEventListener("change", showBugs);

about = await (await fetch("api/about")).json();
byId("about").textContent = `${about.family} ${about.model.slice(0, 8)}, size ${about.size}; monitors learned from ${about.reference_days} days; endpoint ${about.endpoint}`;
byId("speed").max = about.speeds.length - 1;
for (const stage of [...new Set(about.bugs.filter((bug) => !bug.not_here).map((bug) => bug.stage))]) byId("stage").append(make("option", { value: stage }, stage));
if (!token) {
  byId("break-help").textContent = "To break things, open the address that the terminal printed: it ends in #token=… and this one did not.";
  for (const id of ["speed", "pause"]) byId(id).disabled = true;
}
poll();
