"use strict";
// The examples of each experiment: choose a split and two stages, filter, search, open a row. Text only ever becomes
// text nodes. A part of the rows is shown at a time, so that ten thousand examples stay light.
const PAGE = 25;
const FILTERS = [
  ["all", "All", () => true],
  ["fixed", "Fixed", (row, from, to) => score(row, to) > score(row, from)],
  ["broken", "Broken", (row, from, to) => score(row, to) < score(row, from)],
  ["wrong", "Wrong", (row, from, to) => score(row, to) < 1],
  ["unparsed", "Unparsed", (row, from, to) => outcome(row, to) === "unparsed"],
  ["error", "Errors", (row, from, to) => outcome(row, to) === "error"],
];

const score = (row, stage) => (row[3][stage] ? row[3][stage][0] : NaN);
const outcome = (row, stage) => (row[3][stage] ? row[3][stage][1] : "");
const flat = (fields) => fields.map((field) => field[1]).join(" · ");

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function described(answer) {
  if (!answer) return { sign: "–", style: "quiet", words: "not evaluated" };
  const [value, how] = answer;
  if (how === "error") return { sign: "!", style: "bad", words: "error" };
  if (how === "unparsed") return { sign: "¶", style: "unsure", words: "unparsed" };
  if (value === 1) return { sign: "✓", style: "good", words: "right" };
  if (value === 0) return { sign: "✗", style: "bad", words: "wrong" };
  return { sign: value.toFixed(2), style: value < 0.5 ? "unsure" : "good", words: `score ${value.toFixed(2)}` };
}

function marked(answer) {
  const { sign, style, words } = described(answer);
  return make("span", { class: `mark ${style}`, title: words },
    make("span", { "aria-hidden": "true" }, sign), make("span", { class: "hidden" }, words));
}

function said(answer) {
  if (!answer || answer[1] === "unparsed") return described(answer).words;
  return flat(answer[2]) || `${described(answer).words}: ${answer[3]}`;
}

function listed(fields) {
  const list = make("dl", { class: "fields" });
  for (const [name, text] of fields) list.append(make("dt", {}, name), make("dd", { dir: "auto" }, text));
  return list;
}

// What the LM really said; made when a row is opened, so that a page of many examples stays light.
function raw(replies) {
  const title = replies.length === 1 ? "raw reply" : `${replies.length} raw replies`;
  const part = make("details", { class: "reply" }, make("summary", {}, title));
  for (const [facts, text] of replies)
    part.append(make("p", { class: "quiet" }, facts), make("pre", { dir: "auto" }, text || "(empty)"));
  return part;
}

class Examples {
  constructor(section) {
    this.data = JSON.parse(document.getElementById(section.dataset.examples).textContent);
    this.id = section.dataset.examples;
    this.form = section.querySelector("form");
    this.status = section.querySelector(".status");
    this.table = section.querySelector("table");
    this.more = section.querySelector(".more");
    const fields = this.form.elements;
    this.split = fields.split;
    this.before = fields.before;
    this.after = fields.after;
    this.way = fields.way;
    this.search = fields.search;
    this.filter = "all";
    this.texts = new WeakMap();
    const splits = Object.keys(this.data.splits);
    for (const name of splits) this.split.append(new Option(name, name));
    const most = splits.map((name) => this.data.splits[name].stages.length);
    this.split.value = splits[most.lastIndexOf(Math.max(...most))];
    this.split.parentElement.hidden = splits.length < 2;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.split.addEventListener("change", () => this.chooseSplit());
    for (const select of [this.before, this.after, this.way]) select.addEventListener("change", () => this.show());
    let timer;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.show(), 120);
    });
    this.more.addEventListener("click", () => this.showMore());
    this.makeFilters();
    this.chooseSplit();
    this.form.hidden = this.table.hidden = false;
  }

  makeFilters() {
    const group = this.form.querySelector("fieldset");
    this.counts = {};
    for (const [key, label] of FILTERS) {
      const input = make("input", { type: "radio", name: "filter", value: key });
      input.checked = key === this.filter;
      input.addEventListener("change", () => {
        this.filter = key;
        this.show();
      });
      this.counts[key] = make("span");
      group.append(make("label", {}, input, this.counts[key]));
    }
  }

  chooseSplit() {
    const { stages } = this.data.splits[this.split.value];
    for (const select of [this.before, this.after]) {
      select.replaceChildren(...stages.map((stage, index) => new Option(stage, String(index))));
      select.parentElement.hidden = stages.length < 2;
    }
    this.after.value = String(stages.length - 1);
    this.before.value = String(Math.max(stages.length - 2, 0));
    this.chooseWays();
    const heads = ["example", "expected", ...stages];
    this.table.tHead.replaceChildren(make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head))));
    this.show();
  }

  // Up the ladder an example goes a way that has a name: learned, forgotten, never right.
  chooseWays() {
    const { rows } = this.data.splits[this.split.value];
    const gone = this.data.kinds.filter((kind) => rows.some((row) => row[4] === kind));
    this.way.replaceChildren(new Option("any", ""), ...gone.map((kind) => new Option(kind, kind)));
    this.way.parentElement.hidden = gone.length === 0;
  }

  text(row) {
    let text = this.texts.get(row);
    if (text === undefined) {
      text = [row[0], flat(row[1]), flat(row[2]), ...row[3].map((answer) => (answer ? `${flat(answer[2])} ${answer[3]}` : ""))].join("\n").toLowerCase();
      this.texts.set(row, text);
    }
    return text;
  }

  show() {
    const { rows } = this.data.splits[this.split.value];
    const [from, to] = [Number(this.before.value), Number(this.after.value)];
    const wanted = this.search.value.trim().toLowerCase();
    const way = this.way.value;
    const found = rows.filter((row) => (!way || row[4] === way) && (!wanted || this.text(row).includes(wanted)));
    const kept = {};
    for (const [key, label, holds] of FILTERS) {
      kept[key] = found.filter((row) => holds(row, from, to));
      this.counts[key].textContent = `${label} ${kept[key].length}`;
    }
    this.chosen = kept[this.filter];
    this.of = rows.length;
    this.table.tBodies[0].replaceChildren();
    this.shown = 0;
    this.showMore(false);
  }

  showMore(focus = true) {
    const body = this.table.tBodies[0];
    const next = this.chosen.slice(this.shown, this.shown + PAGE);
    const made = next.map((row, index) => this.row(row, this.shown + index));
    body.append(...made);
    this.shown += next.length;
    const left = this.chosen.length - this.shown;
    this.more.hidden = left === 0;
    this.more.textContent = `Show ${Math.min(left, PAGE)} more of ${left}`;
    const noun = this.chosen.length === 1 ? "example" : "examples";
    const all = this.chosen.length === this.of ? "" : ` out of ${this.of}`;
    this.status.textContent = left
      ? `Showing the first ${this.shown} of ${this.chosen.length} ${noun}${all}.`
      : `Showing ${this.chosen.length || "no"} ${noun}${all}.`;
    if (focus && made.length) made[0].querySelector("button").focus();
  }

  row(row, number) {
    const { stages } = this.data.splits[this.split.value];
    const inside = `${this.id}-${number}`;
    const open = make("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": inside },
      make("span", { class: "cut", dir: "auto" }, (flat(row[1]) || row[0]).slice(0, 300)));
    const line = make("tr", { class: "row" },
      make("td", {}, open),
      make("td", { "data-head": "expected" }, make("span", { class: "cut", dir: "auto" }, flat(row[2]).slice(0, 300))),
      ...row[3].map((answer, index) => make("td", { "data-head": stages[index] },
        make("div", { class: "said" }, marked(answer),
          make("span", { class: answer && answer[2].length ? "cut" : "cut quiet", dir: "auto" }, said(answer).slice(0, 200))))));
    open.addEventListener("click", () => {
      const opened = open.getAttribute("aria-expanded") === "true";
      open.setAttribute("aria-expanded", String(!opened));
      if (opened) document.getElementById(inside).remove();
      else line.after(this.inside(row, inside));
    });
    return line;
  }

  inside(row, id) {
    const { stages } = this.data.splits[this.split.value];
    const answers = row[3].map((answer, index) => {
      const part = make("div", {}, make("h4", {}, marked(answer), ` ${stages[index]} `,
        make("span", { class: "quiet" }, described(answer).words)));
      if (answer && answer[2].length) part.append(listed(answer[2]));
      if (answer && answer[3]) part.append(listed([["what went wrong", answer[3]]]));
      if (answer && answer[4].length) part.append(raw(answer[4]));
      return part;
    });
    const given = make("div", {}, make("h4", {}, "inputs"), listed(row[1]));
    const expected = make("div", {}, make("h4", {}, "expected"), listed(row[2]), make("p", { class: "quiet" }, `id ${row[0]}${row[4] ? ` · ${row[4]}` : ""}`));
    return make("tr", { class: "inside", id },
      make("td", { colspan: String(2 + stages.length) },
        make("div", { class: "answers" }, given, expected), make("div", { class: "answers" }, ...answers)));
  }
}

for (const section of document.querySelectorAll("[data-examples]")) new Examples(section);

// On paper everything is open.
const closed = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    part.open = true;
    closed.push(part);
  }
});
addEventListener("afterprint", () => {
  for (const part of closed.splice(0)) part.open = false;
});
