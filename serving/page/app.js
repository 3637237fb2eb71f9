"use strict";
// The page reads the service's own API. Texts of the catalogue are set as text, never as markup.

const $ = (id) => document.getElementById(id);
const state = {
  info: null, // the answer of GET /info
  history: [], // items, oldest first
  suggestions: [], // items whose titles match the words in the field "Add an item"
  selected: -1, // position among the suggestions
  lookups: 0, // look-ups of suggestions so far: an answer to an earlier one is dropped
  requests: 0, // requests for recommendations so far: an answer to an earlier one is dropped
};

const REASONS = {
  unknown_user: "the user is unknown",
  empty_history: "the history is empty",
  no_known_items: "the bundle knows none of the items",
  features_unavailable: "the online store did not answer",
  features_slow: "the online store was slow",
  deadline: "the model took too long",
  decoder_failed: "the model failed",
};

// --- helpers -------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function call(path, body) {
  const headers = {};
  const key = $("key").value;
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const content = await response.json();
  if (response.ok) return content;
  if (response.status === 401) {
    document.querySelector(".key").hidden = false;
    $("key").focus();
  }
  throw new Error(content.error ? content.error.message : `status ${response.status}`);
}

function showStatus(text) {
  $("status").textContent = text;
}

function isForUser() {
  return document.querySelector("input[name=who]:checked").value === "user";
}

// --- the service and its filters -----------------------------------------------------------------

async function start() {
  try {
    state.info = await call("info");
  } catch (error) {
    $("metadata").textContent = error.message;
    return;
  }
  const { first, users, describe } = state.info;
  $("metadata").textContent = serviceSummary(state.info);
  $("with-users").hidden = !users;
  $("words-part").hidden = !describe;
  if (users) {
    const answer = await call("users?limit=100");
    $("users").replaceChildren(...answer.users.map((user) => make("option", { value: user })));
  }
  const rows = first.columns.map(filterRow);
  $("filters").replaceChildren(...rows.filter((row) => row !== null));
  recommend();
}

function serviceSummary({ first, second }) {
  const items = first.items.toLocaleString("en");
  let parameters = first.parameters.toLocaleString("en");
  if (first.parameters >= 1e6) parameters = `${(first.parameters / 1e6).toFixed(1)} million`;
  const summary = `${items} items, a model of ${parameters} parameters, bundle ${first.version}`;
  return second ? `${summary}, beside bundle ${second.version}` : summary;
}

function filterRow(column) {
  const id = `filter-${column.name}`;
  let input = null;
  if (column.kind === "number" && column.least !== null) {
    input = make("div", { class: "range" },
      rangeInput(column, "least", "at least", id), "to", rangeInput(column, "most", "at most", null));
  } else if (column.kind === "flag") {
    input = valueSelect(column, ["true", "false"], id);
  } else if (column.values.length > 1) {
    input = valueSelect(column, column.values, id);
  }
  if (input === null) return null;
  return make("div", { class: "filter" }, make("label", { for: id }, column.name), input);
}

function rangeInput(column, bound, label, id) {
  return make("input", {
    id,
    type: "number",
    step: "any",
    placeholder: column[bound],
    "data-column": column.name,
    "data-bound": bound,
    "aria-label": `${column.name}, ${label}`,
  });
}

function valueSelect(column, values, id) {
  const options = values.map((value) => make("option", { value }, value));
  return make("select", { id, "data-column": column.name, "data-kind": column.kind },
    make("option", { value: "" }, "any"), ...options);
}

function filters() {
  const conditions = [];
  for (const select of $("filters").querySelectorAll("select")) {
    if (!select.value) continue;
    const value = select.dataset.kind === "flag" ? select.value === "true" : select.value;
    conditions.push({ column: select.dataset.column, any_of: [value] });
  }
  const ranges = {};
  for (const input of $("filters").querySelectorAll("input")) {
    if (input.value === "") continue;
    const column = input.dataset.column;
    ranges[column] ??= { column };
    ranges[column][input.dataset.bound] = Number(input.value);
  }
  return [...conditions, ...Object.values(ranges)];
}

// --- the history ---------------------------------------------------------------------------------

function showHistory() {
  const rows = state.history.map((item, position) => {
    const label = `Remove ${item.title}`;
    const remove = () => removeFromHistory(position);
    const button = make("button", { type: "button", "aria-label": label, onclick: remove }, "×");
    return make("li", {}, make("span", {}, item.title), button);
  });
  $("history").replaceChildren(...rows);
  $("no-history").hidden = rows.length > 0;
}

function addToHistory(item) {
  state.history.push(item);
  $("find").value = "";
  showSuggestions([]);
  showHistory();
  recommend();
}

function removeFromHistory(position) {
  state.history.splice(position, 1);
  showHistory();
  // The focus goes to the next item's button, so that the keyboard stays in the list.
  const buttons = $("history").querySelectorAll("button");
  const next = buttons[Math.min(position, buttons.length - 1)] || $("find");
  next.focus();
  recommend();
}

async function suggest() {
  const lookup = ++state.lookups;
  const words = $("find").value.trim();
  let items = [];
  if (words) items = (await call(`items?limit=12&words=${encodeURIComponent(words)}`)).items;
  if (lookup === state.lookups) showSuggestions(items);
}

function showSuggestions(items) {
  state.suggestions = items;
  const options = items.map((item, position) => {
    const add = (event) => {
      event.preventDefault();
      addToHistory(item);
    };
    return make("li", { role: "option", id: `suggestion-${position}`, onmousedown: add }, item.title);
  });
  $("suggestions").replaceChildren(...options);
  $("suggestions").hidden = !items.length;
  $("find").setAttribute("aria-expanded", String(items.length > 0));
  selectSuggestion(items.length ? 0 : -1);
}

function selectSuggestion(position) {
  state.selected = position;
  [...$("suggestions").children].forEach((option, number) => {
    option.setAttribute("aria-selected", String(number === position));
  });
  if (position < 0) {
    $("find").removeAttribute("aria-activedescendant");
    return;
  }
  $("find").setAttribute("aria-activedescendant", `suggestion-${position}`);
  $("suggestions").children[position].scrollIntoView({ block: "nearest" });
}

function onFindKey(event) {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  const count = state.suggestions.length;
  if (event.key in steps && count) {
    event.preventDefault();
    selectSuggestion((state.selected + steps[event.key] + count) % count);
  } else if (event.key === "Enter") {
    event.preventDefault();
    if (state.selected >= 0) addToHistory(state.suggestions[state.selected]);
  } else if (event.key === "Escape") {
    showSuggestions([]);
  }
}

// --- recommendations -----------------------------------------------------------------------------

async function recommend() {
  const request = ++state.requests;
  const words = state.info.describe ? $("words").value.trim() : "";
  const body = {
    k: Number($("k").value) || 8,
    filters: filters(),
    exclude_history: $("exclude").checked,
    explain: true,
  };
  if (words) body.words = words;
  if (!isForUser()) {
    body.items = state.history.map((item) => item.item_id);
  } else if ($("user").value) {
    body.user_id = $("user").value;
  } else {
    $("columns").replaceChildren();
    showStatus("Enter a user id.");
    return;
  }
  const path = words ? "search" : "recommend";
  const bundles = state.info.second ? ["first", "second"] : ["first"];
  const answers = await Promise.all(bundles.map((bundle) => answerOf(path, { ...body, bundle })));
  if (request !== state.requests) return;
  const columns = answers.map((answer, number) => answerColumn(answer, answers[1 - number]));
  $("columns").replaceChildren(...columns);
  showStatus(answers.map((answer) => answer.status).join(" "));
}

// Returns a bundle's answer with its time, or the error that came instead.
async function answerOf(path, body) {
  const version = state.info[body.bundle].version;
  const start = performance.now();
  try {
    const answer = await call(path, body);
    const ms = Math.round(performance.now() - start);
    return { ...answer, version, ms, error: null, status: `${answer.items.length} items in ${ms} ms.` };
  } catch (error) {
    return { items: [], version, error: error.message, status: error.message };
  }
}

function answerColumn(answer, otherAnswer) {
  if (answer.error !== null) {
    return make("div", { class: "column" }, make("p", { class: "error" }, answer.error));
  }
  let otherRanks = null;
  if (otherAnswer) {
    otherRanks = new Map(otherAnswer.items.map((item, position) => [item.item_id, position + 1]));
  }
  const heading = state.info.second ? make("h2", {}, `Bundle ${answer.version}`) : null;
  const items = answer.items.map((item, position) => itemElement(item, position + 1, otherRanks));
  return make("div", { class: "column" },
    heading, answerSummary(answer), make("ol", { class: "items" }, ...items));
}

function answerSummary(answer) {
  const isModel = answer.source === "model";
  const badge = make("span", { class: `badge ${answer.source}` }, isModel ? "model" : "popular");
  const notes = [isModel ? `${answer.ms} ms` : REASONS[answer.reason] || answer.reason];
  if (answer.shortfall) notes.push(answer.shortfall);
  if (isForUser() && answer.history.length) {
    notes.push(`${answer.history.length} items in the history`);
  }
  return make("p", { class: "quiet" }, badge, ` ${notes.join("; ")}`);
}

function itemElement(item, rank, otherRanks) {
  let comparison = null;
  if (otherRanks) {
    const otherRank = otherRanks.get(item.item_id);
    if (!otherRank) comparison = "in this bundle only";
    else if (otherRank !== rank) comparison = `rank ${otherRank} in the other bundle`;
  }
  const comparisonElement = comparison && make("div", { class: "comparison" }, comparison);
  const head = make("div", { class: "head" },
    make("span", { class: "rank" }, String(rank)),
    make("span", { class: "title" }, item.title, comparisonElement),
    scoreElement(item.score));
  return make("li", { class: "item" }, head, explanationElement(item.why, rank === 1));
}

// A score is a log-probability, plus the weighted item prior where the bundle has one: no probability.
function scoreElement(score) {
  if (score === null) return null;
  const title = "log-probability of the item, plus the weighted item prior where the bundle has one";
  return make("span", { class: "score", title }, `score ${score.toFixed(2)}`);
}

function explanationElement(why, open) {
  if (!why) return null;
  const steps = why.path.map(pathStep);
  const neighbours = why.neighbours.map(neighbourElement);
  const list = neighbours.length ? make("ul", { class: "near" }, ...neighbours) : null;
  const caption = make("p", { class: "quiet" },
    "The score is the sum of a share for each token.");
  return make("details", { open },
    make("summary", {}, "why"), make("div", { class: "why" }, caption, ...steps, list));
}

// The API's field `probability` is the token's factor: its probability, times that of the prior.
function pathStep(token) {
  const fill = make("i");
  fill.style.width = `${100 * token.probability}%`;
  // A factor too small for a number is 0, and has no logarithm.
  const share = token.probability > 0 ? Math.log(token.probability).toFixed(2) : "< -700";
  return make("div", { class: "step" },
    make("span", {}, `${token.source} ${token.level}`),
    make("code", {}, token.token),
    make("span", { class: "bar", "aria-hidden": "true" }, fill),
    make("span", { class: "number" }, share));
}

function neighbourElement(neighbour) {
  const count = neighbour.shared_levels;
  let shared = "";
  if (count === 1) shared = ", same first token";
  if (count > 1) shared = `, same first ${count} tokens`;
  return make("li", {},
    `nearest in the history (${neighbour.source}): `, make("b", {}, neighbour.title), shared);
}

// --- events of the page --------------------------------------------------------------------------

function showParts() {
  $("user-part").hidden = !isForUser();
  $("items-part").hidden = isForUser();
}

function update() {
  showParts();
  recommend().catch((error) => showStatus(error.message));
}

$("find").addEventListener("input", () => suggest().catch((error) => showStatus(error.message)));
$("find").addEventListener("blur", () => showSuggestions([]));
$("find").addEventListener("keydown", onFindKey);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  update();
});
$("form").addEventListener("reset", () => {
  // The fields have their first values only after the event.
  setTimeout(() => {
    state.history = [];
    showHistory();
    update();
  });
});
$("form").addEventListener("change", (event) => {
  if (event.target.id !== "find") update();
});
$("key").addEventListener("change", () => start());

showHistory();
start().catch((error) => showStatus(error.message));
