"use strict";
// What the page holds: loaded values by key, and where the reader stands (kept in the address, so that a view can be linked).
const PAGE_ROWS = 100;
const loaded = new Map(), waiting = new Map();
let index = { checkpoints: [], tasks: [] };
let place = {}, sheet = {};

window.gallery = {
  take(key, value) {
    loaded.set(key, value);
    (waiting.get(key) || (() => {}))(value);
  },
};

function load(key, path) {
  if (loaded.has(key)) return Promise.resolve(loaded.get(key));
  return new Promise((resolve) => {
    waiting.set(key, resolve);
    const script = document.createElement("script");
    script.src = path;
    script.onerror = () => { loaded.set(key, null); resolve(null); };
    document.head.append(script);
  });
}

const byId = (id) => document.getElementById(id);
const node = (tag, style = "", text = null) => {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text !== null) made.textContent = text;  // never HTML: a model can print anything
  return made;
};
const said = (value) => typeof value === "number" ? (Number.isInteger(value) ? String(value) : value.toFixed(3)) : String(value);
const isRead = (task) => task.metric === "bypass";
const taskOf = (name) => index.tasks.find((task) => task.task === name) || mostMoved();

// Whoever comes without a wish is shown the task whose score moved most by its own range, an accuracy where there is one.
function mostMoved() {
  const moved = (task) => {
    const scores = index.checkpoints.map((point) => task.scores[point.name]).filter((score) => score !== undefined);
    const last = scores[scores.length - 1], range = Math.max(...scores.map(Math.abs));
    return scores.length && range ? Math.abs(last - scores[0]) / range : 0;
  };
  return [...index.tasks].sort((one, other) => (other.metric.startsWith("acc") - one.metric.startsWith("acc")) || moved(other) - moved(one))[0];
}

// What tells a row from the others: its prompt without the lines that all prompts begin with, or the end of it.
function ownWords(questions) {
  const prompts = questions.map((question) => question.prompt), first = prompts[0] || "";
  let shared = prompts.length > 1 ? first.length : 0;
  for (const prompt of prompts) while (shared && prompt.slice(0, shared) !== first.slice(0, shared)) shared = first.lastIndexOf("\n", shared - 2) + 1;
  return (prompt) => {
    const own = prompt.slice(shared).trim();
    return own && own.length <= 200 ? own : prompt.trim().split("\n").slice(-2).join(" ");
  };
}

// A model's text as it stands; white space that would only be seen as a hole is told in words.
function printed(text) {
  const box = node("pre", "response");
  if (!text.trim()) return node("p", "hole", text ? `nothing but white space, ${text.length.toLocaleString("en")} characters` : "nothing");
  text.split(/(\n{4,})/).forEach((part, i) => box.append(i % 2 ? node("span", "hole", `\n${part.length} line ends\n`) : part));
  return box;
}

function readPlace() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const names = index.checkpoints.map((checkpoint) => checkpoint.name);
  const known = (name, otherwise) => names.includes(name) ? name : otherwise;
  place = {
    task: (taskOf(asked.get("task")) || {}).task,
    a: known(asked.get("a"), names[0]),
    b: known(asked.get("b"), names[names.length - 1]),
    show: asked.get("show") || "all",
    row: Math.max(0, Number(asked.get("row")) || 0),
  };
}

function go(change) {
  place = { ...place, ...change };
  history.replaceState(null, "", "#" + new URLSearchParams(place));
  draw();
}

function metricOf(task, row) {
  if (!row) return null;
  const name = task.metric.split(",")[0];
  const value = name in row.metrics ? row.metrics[name] : Object.values(row.metrics).find((v) => typeof v === "number");
  return typeof value === "number" || typeof value === "boolean" ? Number(value) : null;
}

function pair(task, questions, left, right) {
  const filters = [...new Set([...(left || []), ...(right || [])].map((row) => row.filter))];
  const chosen = task.metric.includes(",") ? task.metric.split(",")[1] : filters[0];
  const of = (rows) => new Map((rows || []).filter((row) => row.filter === chosen).map((row) => [`${row.task} ${row.doc_id}`, row]));
  const [ofLeft, ofRight] = [of(left), of(right)];
  return questions.map((question) => {
    const key = `${question.task} ${question.doc_id}`;
    const [a, b] = [ofLeft.get(key), ofRight.get(key)];
    return { question, a, b, from: metricOf(task, a), to: metricOf(task, b) };
  }).filter((row) => row.a || row.b);
}

function wanted(task, row) {
  const gain = (row.to - row.from) * (task.higher_is_better ? 1 : -1);
  return { all: true, changed: row.to !== row.from, better: gain > 0, worse: gain < 0 }[place.show];
}

// -- drawing ----------------------------------------------------------------------------------------------------------

async function draw() {
  const task = taskOf(place.task);
  if (!task) return byId("empty").hidden = false;
  fillControls(task);
  const questions = await load(`questions/${task.task}`, `questions/${task.task}.js`) || [];
  if (isRead(task)) return drawPrompts(task, questions);
  const answers = (name) => load(`${name}/${task.task}`, `${task.folder}/${name}/${task.task}.js`);
  const [left, right] = await Promise.all([answers(place.a), answers(place.b)]);
  if (task.task !== place.task) return undefined;  // the reader has gone on meanwhile
  const key = [task.task, place.a, place.b, place.show].join(" ");
  if (sheet.key !== key) {  // not for every key that is pressed: a task may have ten thousand rows
    sheet = { key, rows: pair(task, questions, left, right).filter((row) => wanted(task, row)), words: ownWords(questions) };
  }
  drawList(task, sheet.rows, sheet.words);
  drawTrend(task);
  return drawRow(task, sheet.rows[Math.min(place.row, sheet.rows.length - 1)]);
}

function fillControls(task) {
  choose("task", index.tasks.map((each) => [each.task, isRead(each) ? `${each.task} (to read)` : `${each.task} · ${each.shots}-shot ${each.metric}`]), task.task);
  const points = index.checkpoints.map((point) => {
    const score = task.scores[point.name];
    return [point.name, `${point.name} · ${point.stage} step ${point.step.toLocaleString("en")}${score === undefined ? "" : ` · score ${said(score)}`}`];
  });
  choose("a", points, place.a);
  choose("b", points, place.b);
  byId("show").value = place.show;
  document.body.classList.toggle("reading", isRead(task));
}

function choose(id, options, value) {
  const select = byId(id);
  select.replaceChildren(...options.map(([name, words]) => {
    const option = node("option", "", words);
    option.value = name;
    return option;
  }));
  select.value = value;
}

function drawList(task, rows, words) {
  const first = Math.floor(Math.min(place.row, Math.max(0, rows.length - 1)) / PAGE_ROWS) * PAGE_ROWS;
  byId("count").textContent = `${rows.length.toLocaleString("en")} rows` + (rows.length > PAGE_ROWS ? `, ${first + 1} to ${Math.min(first + PAGE_ROWS, rows.length)} shown` : "");
  byId("rows").replaceChildren(...rows.slice(first, first + PAGE_ROWS).map((row, i) => {
    const item = node("li"), button = node("button");
    button.append(mark(row.from), mark(row.to), node("span", "words", words(row.question.prompt)));
    button.setAttribute("aria-current", String(first + i === place.row));
    button.onclick = () => go({ row: first + i });
    item.append(button);
    return item;
  }));
  const current = byId("rows").querySelector("[aria-current=true]");
  if (current) current.scrollIntoView({ block: "nearest" });
}

function mark(value) {
  if (value === null) return node("b", "mark none", "–");
  if (value === 0 || value === 1) return node("b", value ? "mark right" : "mark wrong", value ? "✓" : "✗");
  return node("b", "mark", said(value));
}

function drawRow(task, row) {
  const shown = byId("row");
  if (!row) return shown.replaceChildren(node("p", "empty", "No row is of this kind. Choose “all rows”."));
  const prompt = node("pre", "prompt", row.question.prompt);
  const answers = node("div", "answers");
  answers.append(answerOf(task, row, row.a, place.a), answerOf(task, row, row.b, place.b));
  const target = node("p", "target");
  target.append(node("span", "", "target "), node("code", "", targetWords(row.question)));
  shown.replaceChildren(node("h2", "", `${row.question.task}, row ${row.question.doc_id}`), prompt, target, answers);
  prompt.scrollTop = prompt.scrollHeight;
  return shown;
}

function targetIndex(question) {
  if (/^\d+$/.test(question.target) && Number(question.target) < question.options.length) return Number(question.target);
  return question.options.findIndex((option) => option.trim() === question.target.trim());
}

const targetWords = (question) => {
  const at = targetIndex(question);
  return question.options.length > 1 && at >= 0 ? question.options[at] : question.target;
};

function answerOf(task, row, answer, checkpoint) {
  const box = node("section", "answer");
  const head = node("h3", "", checkpoint);
  head.append(mark(metricOf(task, answer)));
  box.append(head);
  if (!answer) box.append(node("p", "empty", "not answered"));
  else if (answer.responses.length > 1 && Array.isArray(answer.responses[0])) box.append(optionsOf(row.question, answer));
  else answer.responses.flat().forEach((response) => box.append(printed(Array.isArray(response) ? response.map(said).join("  ") : said(response))));
  return box;
}

function optionsOf(question, answer) {
  const list = node("ol", "options"), values = answer.responses.map((response) => response[0]);
  const best = Math.max(...values), chosen = values.indexOf(best), target = targetIndex(question);
  values.forEach((value, i) => {
    const item = node("li", (i === chosen ? "chosen " : "") + (i === target ? "target" : ""));
    const bar = node("i", "share");
    bar.style.setProperty("--share", `${(100 * Math.exp(value - best)).toFixed(1)}%`);
    item.append(node("span", "words", question.options[i] ?? `option ${i}`), node("code", "", value.toFixed(2)), bar);
    list.append(item);
  });
  return list;
}

function drawTrend(task) {
  const points = index.checkpoints.map((point, i) => [i, task.scores[point.name], point.name]).filter((point) => point[1] !== undefined);
  const values = points.map((point) => point[1]), low = Math.min(...values), high = Math.max(...values);
  const x = (i) => 4 + 292 * i / Math.max(1, index.checkpoints.length - 1), y = (value) => 40 - 34 * (value - low) / (high - low || 1);
  const svg = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  };
  const line = svg("polyline", { points: points.map(([i, value]) => `${x(i)},${y(value)}`).join(" "), class: "trend-line" });
  const dots = points.filter((point) => [place.a, place.b].includes(point[2])).map(([i, value]) => svg("circle", { cx: x(i), cy: y(value), r: 3.5, class: "trend-dot" }));
  byId("trend").replaceChildren(line, ...dots);
  byId("trend").setAttribute("aria-label", `${task.metric} from ${said(low)} to ${said(high)} over ${points.length} checkpoints`);
}

async function drawPrompts(task, questions) {
  const at = Math.min(place.row, questions.length - 1), question = questions[at];
  byId("count").textContent = `${questions.length} prompts`;
  const words = ownWords(questions);
  byId("rows").replaceChildren(...questions.map((each, i) => {
    const item = node("li"), button = node("button", "", words(each.prompt));
    button.setAttribute("aria-current", String(i === at));
    button.onclick = () => go({ row: i });
    item.append(button);
    return item;
  }));
  byId("trend").replaceChildren();
  const list = node("ol", "along");
  byId("row").replaceChildren(node("h2", "", "The same prompt, along the training"), node("pre", "prompt", question ? question.prompt : ""), list);
  for (const point of index.checkpoints) {
    const rows = await load(`${point.name}/${task.task}`, `${task.folder}/${point.name}/${task.task}.js`);
    if (!list.isConnected) return;
    const answer = (rows || []).find((row) => row.task === question.task && row.doc_id === question.doc_id);
    const item = node("li");
    const texts = answer ? answer.responses.flat().map((response) => printed(said(response))) : [node("p", "hole", "not answered")];
    item.append(node("h3", "", `${point.name} · ${point.stage} step ${point.step.toLocaleString("en")}`), ...texts);
    list.append(item);
  }
}

// -- reading by keyboard ------------------------------------------------------------------------------------------------

const step = (list, value, by) => list[Math.min(list.length - 1, Math.max(0, list.indexOf(value) + by))];
const KEYS = {
  j: () => go({ row: place.row + 1 }),
  k: () => go({ row: Math.max(0, place.row - 1) }),
  t: () => go({ task: step(index.tasks.map((task) => task.task), place.task, 1), row: 0 }),
  T: () => go({ task: step(index.tasks.map((task) => task.task), place.task, -1), row: 0 }),
  "[": () => go({ a: step(index.checkpoints.map((point) => point.name), place.a, -1) }),
  "]": () => go({ a: step(index.checkpoints.map((point) => point.name), place.a, 1) }),
  "{": () => go({ b: step(index.checkpoints.map((point) => point.name), place.b, -1) }),
  "}": () => go({ b: step(index.checkpoints.map((point) => point.name), place.b, 1) }),
  c: () => go({ show: place.show === "changed" ? "all" : "changed", row: 0 }),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest && event.target.closest("select, input, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
["task", "a", "b", "show"].forEach((id) => byId(id).addEventListener("change", (event) => go({ [id]: event.target.value, ...(id === "task" || id === "show" ? { row: 0 } : {}) })));
window.addEventListener("hashchange", () => { readPlace(); draw(); });
load("index", "index.js").then((value) => { index = value || index; readPlace(); draw(); });
