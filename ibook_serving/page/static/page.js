// Keeps the page fresh: polls /status, makes rates of it, and fetches what the lake says when it
// is new. The server has written the page already; nothing here is needed to read it.

import * as shown from "./numbers.js";
import { prepareLookup } from "./lookup.js";

const POLL_MS = 2000;
const SLOWEST_MS = 30000;
const PATIENCE_MS = 8000;
const WINDOW_SECONDS = 60;
const KEPT_SECONDS = 300;

const element = id => document.getElementById(id);
const looks = [];
let timer = 0, failures = 0, looking = false, goodUntil = null;

const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function tile(name, value, note, over = false) {
  const card = document.querySelector(`[data-tile=${name}]`);
  write(card.querySelector("b"), value);
  write(card.querySelector("small"), note);
  card.classList.toggle("over", over);
}

// A line over the last five minutes; time without a look is a gap that a line crosses.
function draw(name, values) {
  const svg = document.querySelector(`[data-tile=${name}] .spark`);
  if (values.length < 2) return svg.classList.remove("on");
  const first = values[0][0], span = Math.max(values.at(-1)[0] - first, 1);
  const top = Math.max(...values.map(([, value]) => value)) || 1;
  const points = values.map(([at, value]) =>
    `${(120 * (at - first) / span).toFixed(1)} ${(23 - 22 * value / top).toFixed(1)}`);
  svg.querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  svg.querySelector(".area").setAttribute("d", `M0 24L${points.join("L")}L120 24Z`);
  svg.classList.add("on");
}

function remember(status) {
  const last = looks.at(-1);
  if (last && status.since !== last.since) looks.length = 0;
  if (looks.length && status.read_at <= looks.at(-1).read_at) return;
  looks.push(status);
  while (status.read_at - looks[0].read_at > KEPT_SECONDS) looks.shift();
}

function found(status, now) {
  const { limits } = status, findings = [], seconds = now ? Math.round(now.seconds) : 0;
  if (now && now.requests && now.failed / now.requests > limits.error_share)
    findings.push({ level: "bad",
      what: `${shown.share(now.failed, now.requests)} of requests failed in the last ${seconds} s`, why: "",
      next_step: "The server's log says why: look for `request failed`." });
  const p95 = now ? now.p(0.95) : null;
  if (p95 !== null && p95 > limits.p95_seconds)
    findings.push({ level: "warn",
      what: `p95 is ${shown.milliseconds(p95)}, more than ${shown.milliseconds(limits.p95_seconds)}`, why: "",
      next_step: "Are orders waiting? Then more API processes help; else look at this machine." });
  if (now && now.missing)
    findings.push({ level: "warn",
      what: `${shown.share(now.missing, now.orders)} of answers were degraded in the last ${seconds} s`,
      why: `Missing: ${words(now.degraded)}.`,
      next_step: "Is the stream running, is the online store up, is a snapshot published?" });
  return findings;
}

const words = counts => Object.entries(counts).filter(([, n]) => n > 0)
  .map(([name]) => name.replaceAll("_", " ")).join(", ");

const plural = (n, one) => `${shown.whole(n)} ${one}${n === 1 ? "" : "s"}`;

function showVerdict(status, now) {
  const { verdict } = status;
  const findings = [...verdict.findings, ...found(status, now)];
  const broken = findings.filter(finding => finding.level === "bad").length;
  const level = broken ? "bad" : findings.length ? "warn" : "well";
  element("verdict").className = `verdict ${level}`;
  document.querySelector("#verdict use").setAttribute("href", `#i-${level}`);
  if (element("headline").textContent !== verdict.headline)
    element("headline").replaceChildren(...verdict.headline.split(" ").flatMap((word, i) => {
      const span = document.createElement("span");
      span.textContent = word;
      return i ? [" ", span] : [span];
    }));
  write(element("state"), broken ? `${plural(broken, "thing")} ${broken === 1 ? "is" : "are"} broken`
    : findings.length ? "Worth a look" : "All is well");
  const items = findings.map(finding => {
    const item = element("finding").content.cloneNode(true).firstElementChild;
    item.className = finding.level;
    const parts = [finding.what, finding.why, finding.next_step];
    item.querySelectorAll("b, span").forEach((part, i) => { part.textContent = parts[i]; });
    return item;
  });
  if (items.map(item => item.outerHTML).join("") !== element("findings").innerHTML)
    element("findings").replaceChildren(...items);
  const lost = status.shadow_rows_lost;
  const entry = status.record_sequence === null ? "no promotion" : `promotion ${status.record_sequence}`;
  write(element("facts"), `${status.processes} of ${status.processes_expected} processes · ${entry} · `
    + `${plural(status.queue_rows, "order")} waiting`
    + (lost ? ` · ${plural(lost, "order")} not shown to a shadow` : ""));
  document.title = `${level === "well" ? "" : "⚠ "}${verdict.headline} · ibook`;
}

function showTiles(status, now, total) {
  const perSecond = now.seconds;
  tile("requests", shown.rate(now.requests / perSecond),
    `${shown.rate(now.orders / perSecond)} orders · ${shown.whole(total.requests)} requests in all`);
  tile("errors", shown.share(now.failed, now.requests),
    `${shown.whole(now.rejected)} rejected (4xx) · ${shown.whole(total.failed)} failed in all`,
    now.failed / now.requests > status.limits.error_share);
  tile("latency", shown.milliseconds(now.p(0.95)),
    `p50 ${shown.milliseconds(now.p(0.5))} · p99 ${shown.milliseconds(now.p(0.99))}`,
    now.p(0.95) > status.limits.p95_seconds);
  tile("review", shown.share(now.reviewed, now.orders), `${shown.whole(total.reviewed)} orders in all`);
  const money = key => status.variants.reduce((sum, count) => sum + count[key], 0);
  tile("saved", shown.money(money("fraud_saved_cents")),
    `expected · reviews cost ${shown.money(money("review_cost_cents"))}`);
  tile("degraded", shown.share(now.missing, now.orders),
    words(now.degraded) || `${shown.whole(total.missing)} in all`);
}

function showAges(status) {
  tile("features", shown.age(status.feature_age_seconds), status.features_as_of === null ? "no history"
    : `as of ${status.features_as_of.slice(0, 16).replace("T", " ")} UTC`);
  tile("model", shown.age(status.model_age_seconds), status.model_version ?? "none promoted");
}

function showSparks() {
  const steps = looks.slice(1).map((look, i) => [look.read_at, shown.between(looks[i], look)]);
  const of = value => steps.map(([at, step]) => [at, value(step)])
    .filter(([, number]) => Number.isFinite(number));
  draw("requests", of(step => step.requests / step.seconds));
  draw("errors", of(step => step.requests ? step.failed / step.requests : NaN));
  draw("latency", of(step => step.p(0.95) ?? NaN));
  draw("review", of(step => step.orders ? step.reviewed / step.orders : NaN));
}

function row(variant) {
  const known = [...element("variants").rows].find(row => row.dataset.variant === variant);
  if (known) return known;
  const made = element("variant").content.cloneNode(true).firstElementChild;
  made.dataset.variant = variant;
  made.querySelector("th").firstChild.data = `${variant}\n`;
  return made;
}

function showRow(lane, count, now, all) {
  const shownIn = row(lane.variant);
  const set = (field, text) => write(shownIn.querySelector(`[data-f=${field}]`), text);
  const own = count ? count.approved + count.reviewed : 0;
  const times = q => count && now.bounds.length ? shown.quantile(count.buckets, now.bounds, q) : null;
  set("version", lane.model_version || lane.stage);
  set("requests", shown.rate((count?.requests ?? 0) / now.seconds));
  for (const p of [50, 95, 99]) set(`p${p}`, shown.milliseconds(times(p / 100)));
  set("review", shown.share(count?.reviewed ?? 0, own));
  set("saved", shown.money(all?.fraud_saved_cents ?? 0));
  set("cost", shown.money(all?.review_cost_cents ?? 0));
  set("share", lane.stage === "shadow" ? `watches ${shown.exact(lane.share)} of users, answers nobody`
    : lane.model_version ? `${shown.share(own, now.orders)} answered, ${shown.exact(lane.share)} configured`
    : "batches over several variants");
  shownIn.querySelector(".fill").setAttribute("width", 100 * own / (now.orders || 1));
  shownIn.querySelector(".gauge .mark").setAttribute("d", `M${100 * lane.share} -2V10`);
  return shownIn;
}

function showVariants(status, now) {
  const all = new Map(status.variants.map(count => [count.variant, count]));
  const lanes = [...status.lanes];
  if (all.has("mixed"))
    lanes.push({ variant: "mixed", stage: "several variants in one request", model_version: "", share: 0 });
  const about = { ...now, bounds: status.latency_bounds_seconds };
  const rows = lanes.map(lane =>
    showRow(lane, now.variants.get(lane.variant), about, all.get(lane.variant)));
  const here = [...element("variants").rows];
  if (rows.length !== here.length || rows.some((row, i) => row !== here[i]))
    element("variants").replaceChildren(...rows);
}

const empty = status => ({ ...status, read_at: status.since, answers: {}, degraded: {}, variants: [] });

function show(status) {
  remember(status);
  const newest = looks.at(-1);
  const oldest = looks.find(look => newest.read_at - look.read_at <= WINDOW_SECONDS);
  const now = oldest === newest ? null : shown.between(oldest, newest);
  showVerdict(status, now);
  showAges(status);
  if (!now) return;
  showTiles(newest, now, shown.between(empty(newest), newest));
  showVariants(newest, now);
  showSparks();
  write(element("window"), `last ${Math.round(now.seconds)} s, sums since ${shown.minute(status.since)}`);
}

async function ask(path) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    return answer.ok ? answer : null;
  } catch {
    return null;
  }
}

async function showEvidence(digest) {
  const old = element("evidence");
  const answer = old.dataset.digest === digest ? null : await ask("/page/evidence");
  if (!answer) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("evidence");
  const open = [...old.querySelectorAll("details[open]")].map(details => details.id);
  for (const details of fresh.querySelectorAll("details")) details.open = open.includes(details.id);
  old.replaceWith(document.adoptNode(fresh));
  showCopyButtons(fresh);
}

function pulse(state, text) {
  document.body.dataset.state = element("pulse").dataset.state = state;
  write(element("pulse"), text);
}

async function look() {
  clearTimeout(timer);
  if (looking) return;
  looking = true;
  const answer = await ask("/status");
  const status = answer && await answer.json();
  looking = false;
  failures = status ? 0 : failures + 1;
  if (!document.hidden) timer = setTimeout(look, Math.min(POLL_MS * 2 ** failures, SLOWEST_MS));
  if (!status) {
    pulse("stale", goodUntil ? `stale since ${shown.clock(goodUntil)}` : "no answer yet");
    return;
  }
  show(status);
  goodUntil = status.read_at;
  pulse("live", `live · ${shown.clock(status.read_at)}`);
  await showEvidence(status.evidence);
}

function showCopyButtons(within) {
  for (const button of within.querySelectorAll("button.copy")) button.hidden = false;
}

document.addEventListener("click", async event => {
  const button = event.target.closest?.("button.copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    // Only pages served over HTTPS or from this machine may write the clipboard.
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) pulse("paused", "paused");
  else look();
});

showCopyButtons(document);
prepareLookup();
look();
