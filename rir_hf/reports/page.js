// The rows of the page: searched, filtered, sorted, and drawn fifty at a time. Texts of rows are
// only ever set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50; // rows drawn at once
const FIRST = 3; // negatives that a folded row shows, beside those that are suspicious
const LONG = 200; // characters from which a folded text may hide some

const find = document.getElementById("find");
const kind = document.getElementById("kind");
const sort = document.getElementById("sort");
const noted = document.getElementById("noted");
const status = document.getElementById("status");
const list = document.getElementById("list");
const back = document.getElementById("back");
const on = document.getElementById("on");

let found = data.rows;
let start = 0; // the first row of `found` that is drawn

// Texts

const unspaced = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}]/u;
const segmenter = "Segmenter" in Intl ? new Intl.Segmenter(undefined, { granularity: "word" }) : null;

/** The words of a text, each as where it begins and what it is. */
function wordsOf(text) {
  if (segmenter && unspaced.test(text)) {
    return [...segmenter.segment(text)].filter((one) => one.isWordLike).map((one) => [one.index, one.segment]);
  }
  return [...text.matchAll(/[\p{L}\p{M}\p{N}]+/gu)].map((one) => [one.index, one[0]]);
}

const plain = (word) => word.toLowerCase();

/** Words in more than a quarter of the first passages, which say nothing when they are shared. */
const common = (() => {
  const counts = new Map();
  let passages = 0;
  for (const row of data.rows.slice(0, 100)) {
    for (const passage of passagesOf(row)) {
      passages += 1;
      const words = new Set(wordsOf(passage.text || "").map(([, word]) => plain(word)));
      for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
    }
  }
  const many = Math.max(3, passages / 4);
  return new Set([...counts].filter(([, count]) => count > many).map(([word]) => word));
})();

function passagesOf(row) {
  return Object.keys(data.panels).flatMap((panel) => row[panel] || []);
}

/** All that a search looks through, made when it is first needed. */
function searched(row) {
  if (row.searched === undefined) {
    const texts = passagesOf(row).flatMap((passage) => [passage.text, passage.id]);
    row.searched = [row.query, row.id, ...texts].join("\n").toLowerCase();
  }
  return row.searched;
}

function number(value) {
  const digits = Math.abs(value) < 10 ? 3 : 2;
  return value.toFixed(digits).replace("-", "\u2212");
}

// Elements

function make(tag, name, ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content.filter((part) => part !== null));
  return element;
}

/** A text in which the words of the query are marked. */
function marked(text, words) {
  const parts = [];
  let end = 0;
  for (const [at, word] of wordsOf(text)) {
    if (words.has(plain(word))) {
      parts.push(text.slice(end, at), make("mark", "", word));
      end = at + word.length;
    }
  }
  return [...parts, text.slice(end)];
}

function passageItem(passage, place, words, reasons) {
  const labelled = (label, value) => make("span", "", `${label} `, make("b", "", value));
  const item = make(
    "li",
    reasons.length ? "suspect" : "",
    make(
      "p",
      "numbers",
      make("span", "", `${place + 1}`),
      "similarity" in passage ? labelled("similarity", number(passage.similarity)) : null,
      "score" in passage ? labelled("teacher", number(passage.score)) : null,
      passage.id ? make("span", "", passage.id) : null,
      passage.from ? make("span", "", `from ${passage.from}`) : null,
      ...reasons.map((title) => make("span", "why", title)),
    ),
  );
  if (passage.text === undefined) {
    item.append(make("p", "missing", "text not known"));
    return item;
  }
  const text = make("p", "text", ...marked(passage.text, words));
  text.dir = "auto";
  item.append(text);
  if (passage.cut) {
    item.append(make("p", "cut", `${passage.cut.toLocaleString("en")} more characters are not in this page`));
  }
  return item;
}

/** One of the columns of a row: its positives, its negatives. */
function panelOf(row, panel, words) {
  const titles = (place) =>
    ["negatives", "rejected"].includes(panel)
      ? (row.suspicions || []).filter((one) => one.negatives.includes(place)).map((one) => SHORT[one.kind])
      : [];
  const items = row[panel].map((passage, place) => {
    const reasons = titles(place);
    const item = passageItem(passage, place, words, reasons);
    if (place >= FIRST && !reasons.length) item.classList.add("later");
    return item;
  });
  const count = items.length > 1 ? ` (${items.length})` : "";
  return make("section", "", make("h4", "", data.panels[panel] + count), make("ol", "", ...items));
}

const SHORT = {
  teacher_above: "teacher prefers it",
  near_duplicate: "near-duplicate",
  retriever_above: "retriever prefers it",
};

function placeOf(row) {
  const facts = [`Row ${row.number.toLocaleString("en")}`];
  if (row.id) facts.push(row.id);
  if (row.rank !== undefined) facts.push(`positive at rank ${(row.rank + 1).toLocaleString("en")}`);
  if ("similarity_margin" in row) facts.push(`margin ${number(row.similarity_margin)}`);
  if ("score_margin" in row) facts.push(`teacher's margin ${number(row.score_margin)}`);
  if ("query_score" in row) facts.push(`query alone ${number(row.query_score)}`);
  return make("p", "where", ...facts.map((fact) => make("span", "", fact)));
}

function reasonsOf(row) {
  const reasons = (row.suspicions || []).map((one) =>
    make("li", "", make("b", "", data.kinds[one.kind][0]), one.reason),
  );
  const notes = (row.notes || []).map(([column, note]) => {
    const meaning = (data.meanings[column] || {})[note.split(": ")[0]];
    return make("li", "note", make("b", "", column), note, meaning ? ` (${meaning})` : null);
  });
  return make("ul", "reasons", ...reasons, ...notes);
}

function card(row) {
  const query = row.query || "";
  const words = new Set(wordsOf(query).map(([, word]) => plain(word)).filter((word) => !common.has(word)));
  const title = make("h3", query ? "" : "missing", query || "no query");
  title.dir = "auto";
  title.id = `row-${row.number}`;
  const panels = Object.keys(data.panels).filter((panel) => row[panel]);
  const sides = make("div", "sides", ...panels.map((panel) => panelOf(row, panel, words)));
  const article = make("article", "", placeOf(row), title, reasonsOf(row), sides);
  article.tabIndex = -1;
  article.setAttribute("aria-labelledby", title.id);
  const isFolded = sides.querySelector(".later") || passagesOf(row).some((one) => (one.text || "").length > LONG);
  if (isFolded) {
    const button = make("button", "", "Show all");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => unfold(article));
    article.append(button);
  }
  return article;
}

function unfold(article) {
  const button = article.querySelector(":scope > button");
  if (!button) return;
  const isOpen = article.classList.toggle("open");
  button.textContent = isOpen ? "Show less" : "Show all";
  button.setAttribute("aria-expanded", String(isOpen));
}

// What is shown

function isWanted(row, terms) {
  const kinds = (row.suspicions || []).map((one) => one.kind);
  if (kind.value === "any" && !kinds.length) return false;
  if (!["", "any"].includes(kind.value) && !kinds.includes(kind.value)) return false;
  if (noted.checked && !row.notes) return false;
  return terms.every((term) => searched(row).includes(term));
}

function update() {
  const terms = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  found = data.rows.filter((row) => isWanted(row, terms));
  const by = sort.value;
  // The rows stand as suspicious first; a row without the number comes last.
  if (by) found.sort((one, other) => (one[by] ?? Infinity) - (other[by] ?? Infinity) || one.number - other.number);
  draw(0);
}

function draw(from) {
  start = from;
  const shown = found.slice(start, start + PAGE);
  list.replaceChildren(...shown.map(card));
  if (list.firstChild) list.firstChild.tabIndex = 0;
  const count = found.length.toLocaleString("en");
  const range = `${(start + 1).toLocaleString("en")} to ${(start + shown.length).toLocaleString("en")}`;
  status.textContent = shown.length ? `Rows ${range} of ${count}` : "No row is like that";
  back.disabled = start === 0;
  on.disabled = start + PAGE >= found.length;
}

/** Another page, with the focus on its first or last row. */
function turn(pages, place) {
  const from = start + pages * PAGE;
  if (from < 0 || from >= found.length) return;
  draw(from);
  focusOn(list.children[place < 0 ? list.children.length - 1 : place]);
}

function focusOn(article) {
  for (const other of list.children) other.tabIndex = other === article ? 0 : -1;
  article.focus({ preventScroll: true });
  article.scrollIntoView({ block: "start" });
}

/** The next or the previous row, on another page if need be. */
function step(by) {
  const here = document.activeElement.closest("article");
  const place = here ? [...list.children].indexOf(here) + by : 0;
  if (place < 0) turn(-1, -1);
  else if (place >= list.children.length) turn(1, 0);
  else if (list.children[place]) focusOn(list.children[place]);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, select");
  const isRow = event.target.matches("article");
  const actions = {
    "/": () => find.focus(),
    j: () => step(1),
    k: () => step(-1),
    ...(isRow && { ArrowDown: () => step(1), ArrowUp: () => step(-1), Enter: () => unfold(event.target) }),
  };
  if (isTyping || !Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

function choices(select, entries) {
  select.append(...entries.map(([value, title]) => new Option(title, value)));
}

const kinds = Object.entries(data.kinds).map(([name, [title, count]]) => [name, `${title} (${count.toLocaleString("en")})`]);
choices(kind, [["", "all rows"], ["any", `any suspicion (${data.suspects.toLocaleString("en")})`], ...kinds]);
const margins = { similarity: "lowest margin of the retriever", score: "lowest margin of the teacher" };
choices(sort, [
  ["", "most suspicious first"],
  ...data.margins.map((name) => [`${name}_margin`, margins[name]]),
  ["number", "as in the dataset, from 0"],
]);

let waiting;
find.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, 120);
});
for (const control of [kind, sort, noted]) control.addEventListener("change", update);
document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
back.addEventListener("click", () => turn(-1, 0));
on.addEventListener("click", () => turn(1, 0));
document.addEventListener("keydown", pressed);
update();
