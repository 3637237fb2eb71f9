"use strict";
// The page asks the service's own API; whatever comes from a catalogue is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const state = { history: [], info: null, found: [], chosen: -1, asked: 0 };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function call(path, body) {
  const headers = {};
  const key = $("key").value;
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const content = await answer.json();
  if (answer.ok) return content;
  if (answer.status === 401) {
    document.querySelector(".key").hidden = false;
    $("key").focus();
  }
  throw new Error(content.error ? content.error.message : `status ${answer.status}`);
}

// --- what the service is -------------------------------------------------------------------------
async function start() {
  try {
    state.info = await call("info");
  } catch (error) {
    $("facts").textContent = error.message;
    return;
  }
  const { first, second, users, describe } = state.info;
  const size = first.parameters >= 1e6 ? `${(first.parameters / 1e6).toFixed(1)} million` : first.parameters.toLocaleString("en");
  $("facts").textContent =
    `${first.items.toLocaleString("en")} items, a model of ${size} parameters, bundle ${first.version}` +
    (second ? `, beside bundle ${second.version}` : "");
  $("with-users").hidden = !users;
  $("words-part").hidden = !describe;
  if (users) $("users").replaceChildren(...(await call("users?limit=100")).users.map((user) => make("option", { value: user })));
  $("filters").replaceChildren(...first.columns.map(filterRow).filter(Boolean));
  ask();
}

function filterRow(column) {
  const id = `filter-${column.name}`;
  const label = make("label", { for: id }, column.name);
  let input;
  if (column.kind === "number" && column.least !== null) {
    const bound = (which, at) => make("input", { type: "number", step: "any", id: which === "least" ? id : null, "data-column": column.name,
      "data-bound": which, placeholder: at, "aria-label": `${column.name}, ${which === "least" ? "at least" : "at most"}` });
    input = make("div", { class: "range" }, bound("least", column.least), "to", bound("most", column.most));
  } else if (column.kind === "flag" || column.values.length > 1) {
    const values = column.kind === "flag" ? ["true", "false"] : column.values;
    input = make("select", { id, "data-column": column.name, "data-kind": column.kind }, make("option", { value: "" }, "any"),
      ...values.map((value) => make("option", { value }, value)));
  } else return null;
  return make("div", { class: "filter" }, label, input);
}

function filters() {
  const found = [];
  for (const select of $("filters").querySelectorAll("select")) {
    if (!select.value) continue;
    found.push({ column: select.dataset.column, any_of: [select.dataset.kind === "flag" ? select.value === "true" : select.value] });
  }
  const ranges = {};
  for (const input of $("filters").querySelectorAll("input")) {
    if (input.value !== "") (ranges[input.dataset.column] ??= {})[input.dataset.bound] = Number(input.value);
  }
  return [...found, ...Object.entries(ranges).map(([column, range]) => ({ column, ...range }))];
}

// --- the history ---------------------------------------------------------------------------------
function showHistory() {
  $("history").replaceChildren(...state.history.map((item, place) => make("li", {}, make("span", {}, item.title),
    make("button", { type: "button", "aria-label": `Take out ${item.title}`, onclick: () => takeOut(place) }, "×"))));
  $("no-history").hidden = state.history.length > 0;
}

function takeOut(place) {
  state.history.splice(place, 1);
  showHistory();
  const left = $("history").querySelectorAll("button");
  (left[Math.min(place, left.length - 1)] || $("find")).focus();
  ask();
}

function add(item) {
  state.history.push(item);
  $("find").value = "";
  showFound([]);
  showHistory();
  ask();
}

function showFound(items) {
  state.found = items;
  state.chosen = items.length ? 0 : -1;
  $("found").replaceChildren(...items.map((item, place) => make("li", { role: "option", id: `found-${place}`,
    onmousedown: (event) => { event.preventDefault(); add(item); } }, item.title)));
  $("found").hidden = !items.length;
  $("find").setAttribute("aria-expanded", String(items.length > 0));
  choose(state.chosen);
}

function choose(place) {
  state.chosen = place;
  [...$("found").children].forEach((option, number) => option.setAttribute("aria-selected", String(number === place)));
  if (place >= 0) {
    $("find").setAttribute("aria-activedescendant", `found-${place}`);
    $("found").children[place].scrollIntoView({ block: "nearest" });
  } else $("find").removeAttribute("aria-activedescendant");
}

let typed = 0;
async function find() {
  const now = ++typed;
  const words = $("find").value.trim();
  const items = words ? (await call(`items?limit=12&words=${encodeURIComponent(words)}`)).items : [];
  if (now === typed) showFound(items);
}

$("find").addEventListener("input", () => find().catch((error) => say(error.message)));
$("find").addEventListener("blur", () => showFound([]));
$("find").addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps && state.found.length) {
    event.preventDefault();
    choose((state.chosen + steps[event.key] + state.found.length) % state.found.length);
  } else if (event.key === "Enter") {
    event.preventDefault();
    if (state.chosen >= 0) add(state.found[state.chosen]);
  } else if (event.key === "Escape") showFound([]);
});

// --- asking and showing --------------------------------------------------------------------------
const say = (text) => { $("status").textContent = text; };
const forUser = () => document.querySelector("input[name=who]:checked").value === "user";

async function ask() {
  const now = ++state.asked;
  const words = state.info.describe ? $("words").value.trim() : "";
  const body = { k: Number($("k").value) || 8, filters: filters(), exclude_history: $("exclude").checked, explain: true };
  if (words) body.words = words;
  if (forUser()) {
    if (!$("user").value) {
      $("columns").replaceChildren();
      return say("Name a user.");
    }
    body.user_id = $("user").value;
  } else body.items = state.history.map((item) => item.item_id);
  const places = state.info.second ? ["first", "second"] : ["first"];
  const columns = await Promise.all(places.map((place) => column(words ? "search" : "recommend", { ...body, bundle: place })));
  if (now !== state.asked) return;
  $("columns").replaceChildren(...columns.map((one, number) => one.element(columns[1 - number])));
  say(columns.map((one) => one.said).join(" "));
}

async function column(path, body) {
  const facts = state.info[body.bundle];
  const begun = performance.now();
  try {
    const answer = await call(path, body);
    const took = Math.round(performance.now() - begun);
    const said = `${answer.items.length} items in ${took} ms.`;
    return { items: answer.items, said, element: (other) => shown(facts, answer, took, other) };
  } catch (error) {
    return { items: [], said: error.message, element: () => make("div", { class: "column" }, make("p", { class: "error" }, error.message)) };
  }
}

const REASONS = {
  unknown_user: "nobody has seen this user", empty_history: "there is no history", no_known_items: "the bundle knows none of the items",
  features_unavailable: "the online store did not answer", features_slow: "the online store was slow",
  deadline: "the model took too long", decoder_failed: "the model failed",
};

function shown(facts, answer, took, other) {
  const model = answer.source === "model";
  const ranks = other && new Map(other.items.map((item, place) => [item.item_id, place + 1]));
  const about = make("p", { class: "quiet" }, make("span", { class: `badge ${answer.source}` }, model ? "model" : "popular"),
    ` ${model ? `${took} ms` : REASONS[answer.reason] || answer.reason}`, answer.shortfall ? `; ${answer.shortfall}` : "",
    forUser() && answer.history.length ? `; ${answer.history.length} items in the history` : "");
  return make("div", { class: "column" }, state.info.second ? make("h2", {}, `Bundle ${facts.version}`) : null, about,
    make("ol", { class: "items" }, ...answer.items.map((item, place) => shownItem(item, place + 1, ranks))));
}

const percent = (share) => (share >= 0.0995 ? `${Math.round(100 * share)} %` : share >= 0.001 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");

function shownItem(item, rank, ranks) {
  const there = ranks && ranks.get(item.item_id);
  const also = ranks && there !== rank ? make("div", { class: "also" }, there ? `place ${there} in the other bundle` : "in this bundle only") : null;
  return make("li", { class: "item" },
    make("div", { class: "head" }, make("span", { class: "rank" }, String(rank)),
      make("span", { class: "title" }, item.title, also),
      item.score === null ? null : make("span", { class: "chance", title: "its probability" }, percent(Math.exp(item.score)))),
    item.why ? make("details", { open: rank === 1 }, make("summary", {}, "why"), shownWhy(item.why)) : null);
}

function shownWhy(why) {
  const steps = why.path.map((token) => {
    const bar = make("i");
    bar.style.width = `${100 * token.probability}%`;
    return make("div", { class: "step" }, make("span", {}, `${token.source} ${token.level}`), make("code", {}, token.token),
      make("span", { class: "bar", "aria-hidden": "true" }, bar), make("span", { class: "number" }, percent(token.probability)));
  });
  const near = why.neighbours.map((one) => make("li", {}, `nearest by ${one.source}: `, make("b", {}, one.title),
    one.shared_levels ? `, same first ${one.shared_levels === 1 ? "token" : `${one.shared_levels} tokens`}` : ""));
  return make("div", { class: "why" }, ...steps, near.length ? make("ul", { class: "near" }, ...near) : null);
}

const safely = () => ask().catch((error) => say(error.message));
$("ask").addEventListener("submit", (event) => { event.preventDefault(); safely(); });
$("ask").addEventListener("reset", () => setTimeout(() => { state.history = []; showHistory(); who(); safely(); }));
$("ask").addEventListener("change", (event) => { if (event.target.id !== "find") { who(); safely(); } });
$("key").addEventListener("change", () => start());

function who() {
  $("user-part").hidden = !forUser();
  $("items-part").hidden = forUser();
}

showHistory();
start().catch((error) => say(error.message));
