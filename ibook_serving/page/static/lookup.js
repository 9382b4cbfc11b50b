// The look-up: asks GET /traces/{id} with the key of the form, and shows what it answers.

import { age, exact, percent, whole } from "./numbers.js";

const SHOWN_REASONS = 8;

function make(tag, content, className) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...[content ?? ""].flat().filter(part => part !== null));
  return node;
}

function svg(className, shapes) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  const attributes = { class: className, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" };
  for (const [name, value] of Object.entries(attributes)) drawing.setAttribute(name, value);
  for (const [kind, from, width] of shapes) {
    const shape = document.createElementNS(space, "path");
    shape.setAttribute("class", kind);
    shape.setAttribute("d", width === undefined ? `M${from} -2V10` : `M${from} 0h${width}v8h${-width}z`);
    drawing.append(shape);
  }
  return drawing;
}

const command = text => {
  const button = make("button", "Copy", "copy");
  button.type = "button";
  return make("div", [make("code", text), button], "command");
};

const pairs = rows => make("dl", rows.filter(([, value]) => value !== null).map(
  ([term, value]) => make("div", [make("dt", term), make("dd", value)])), "known");

const time = iso => (iso === null ? null : `${iso.slice(0, 19).replace("T", " ")} UTC`);

function score(trace) {
  const { score, threshold } = trace;
  const bar = svg(score >= threshold ? "gauge over" : "gauge", [
    ["track", 0, 100], ["fill", 0, 100 * score], ["mark", 100 * Math.min(threshold, 1)]]);
  return make("div", [
    make("b", percent(score)), bar,
    make("small", `probability of fraud; goes to review from ${exact(Math.min(threshold, 1))}`)], "score");
}

function reasons(trace) {
  if (trace.reasons === null)
    return make("p", `${trace.model_version} is not loaded any more: ibook replay computes its reasons' inputs again.`, "note");
  const strongest = Math.max(...trace.reasons.map(reason => Math.abs(reason.contribution)), 1e-9);
  return make("ol", trace.reasons.slice(0, SHOWN_REASONS).map(({ contribution, phrase, feature }) => {
    const width = 49 * Math.abs(contribution) / strongest, up = contribution > 0;
    const item = make("li", [
      svg("gauge", [["track", 0, 100], [up ? "up" : "down", up ? 50 : 50 - width, width], ["axis", 50]]),
      make("span", phrase)]);
    item.title = `${feature}: ${contribution > 0 ? "+" : ""}${contribution.toFixed(3)} log-odds`;
    return item;
  }), "reasons");
}

function asOf(trace) {
  if (trace.features_as_of === null) return "no history";
  const behind = (Date.parse(trace.made_at) - Date.parse(trace.features_as_of)) / 1000;
  return `${time(trace.features_as_of)}, ${age(Math.max(0, behind))} before`;
}

function origin({ promotion }) {
  if (promotion === null) return "not in the promotion log";
  return `${promotion.action} by ${promotion.actor}, ${time(promotion.promoted_at)}: ${promotion.reason}`;
}

const learnt = parts => (parts === null ? "no manifest in the lake" : parts.map(part =>
  `${part.table} ${part.first ?? ""}${part.last ? ` to ${part.last}` : ""}: ${whole(part.files)} files, `
  + `${whole(part.rows)} rows`).flatMap(line => [line, document.createElement("br")]).slice(0, -1));

function told(trace) {
  const held = trace.decision === "review";
  const raw = make("details", [make("summary", "Everything, as JSON"),
    make("pre", JSON.stringify(trace, null, 2))]);
  return make("article", [
    make("p", [make("b", held ? "review" : "approve", `badge ${trace.decision}`), make("b", trace.model_version),
      make("span", `as ${trace.variant}${trace.served ? "" : ", seen by nobody"} · ${time(trace.made_at)}`)], "lead"),
    score(trace),
    make("section", [make("h3", "Reasons"), reasons(trace)]),
    make("section", [make("h3", "What was read"), pairs([
      ["Features as of", asOf(trace)],
      ["Store", trace.store ?? "none"],
      ["Position in the log", trace.positions === null ? null : JSON.stringify(trace.positions)],
      ["Missing", trace.degraded.join(", ").replaceAll("_", " ") || "nothing"],
      ["Never seen before", trace.unknown_entities.join(", ") || "nobody"],
      ["User · event", `${trace.user_id} · ${trace.event_id}`],
      ["Answered in", `${(trace.latency_us / 1000).toFixed(1)} ms`],
      ["Experiment", trace.experiment],
    ])]),
    make("section", [make("h3", "Where the model comes from"), pairs([
      [`Promotion ${trace.record_sequence}`, origin(trace)],
      ["Learnt from", learnt(trace.learnt_from)],
      ["Training snapshot", make("code", trace.training_snapshot)],
      ["Artefact", make("code", trace.artefact)],
      ["Served by commit", make("code", trace.git_sha)],
    ])]),
    make("div", [command(`.venv/bin/ibook replay ${trace.request_id}`), command(`.venv/bin/ibook trace ${trace.request_id}`)], "commands"),
    raw,
  ], "trace");
}

const refused = (title, detail) => make("div", [make("b", title), make("span", detail)], "refused");

async function asked(id, key) {
  let answer;
  try {
    answer = await fetch(`/traces/${encodeURIComponent(id)}`, { headers: { "x-api-key": key }, cache: "no-store" });
  } catch {
    return [refused("No answer", "The server cannot be reached; look at the top of this page.")];
  }
  const document = await answer.json().catch(() => null);
  if (answer.ok && document) return document.traces.map(told);
  return [refused(document?.title ?? `Status ${answer.status}`, document?.detail ?? "The answer cannot be read.")];
}

// Makes the form work; without this module it stays switched off.
export function prepareLookup() {
  const [form, found] = ["lookup-form", "found"].map(id => document.getElementById(id));
  document.getElementById("lookup-fields").disabled = false;
  form.addEventListener("submit", async event => {
    event.preventDefault();
    found.replaceChildren(make("p", "Looking it up …", "note"));
    const answer = await asked(form.elements.request_id.value.trim(), form.elements.key.value);
    found.replaceChildren(...answer);
    for (const button of found.querySelectorAll("button.copy")) button.hidden = false;
  });
}
