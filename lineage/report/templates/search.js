"use strict";
// Finds documents in the page's data. Every text of the data becomes a text node: none is ever parsed as markup.
(() => {
  const MOST_RESULTS = 50;
  const data = JSON.parse(document.getElementById("data").textContent);
  const place = Object.fromEntries(data.columns.map((name, number) => [name, number]));
  const field = (id) => document.getElementById(id);
  const query = field("query"), source = field("source"), rule = field("rule"), status = field("status"), results = field("results");

  const get = (row, column) => {
    const value = row[place[column]];
    if (value === undefined || value === null) return null;
    if (column === "fate") return data.fates[value];
    return column in data.names ? data.names[column][value] : value;
  };

  const haystacks = data.rows.map((row) =>
    ["id", "origin", "title", "url", "source"].map((column) => get(row, column) || "").join("\n").toLowerCase());

  const make = (kind, text, name) => {
    const element = document.createElement(kind);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4))));

  // A bound by the name of its rule: gopher_quality.min_words asks for at least so many words.
  const broken = (row) => {
    const name = get(row, "rule"), value = get(row, "value"), threshold = get(row, "threshold");
    const [, bound, signal] = /\.(min|max)_(.+)$/.exec(name) || [];
    if (name === "language.allowed") return `: its language is ${get(row, "language") ?? "unknown"}`;
    if (!bound || value === null || threshold === null) return "";
    const measured = (name.startsWith("language.") ? `language_${signal}` : signal).replaceAll("_", " ");
    return `: ${measured} is ${number(value)}, at ${bound === "min" ? "least" : "most"} ${number(threshold)} is asked`;
  };

  const reason = (row) => {
    const tokens = get(row, "tokens");
    switch (get(row, "fate")) {
      case "train": return tokens === null ? "To train on." : `To train on: ${number(tokens)} tokens.`;
      case "held out": return "Held out: the model is evaluated on it, and never trained.";
      case "not extracted": return `Not extracted: ${get(row, "rule")}${get(row, "detail") ? ` (${get(row, "detail")})` : ""}.`;
      case "dropped": return `Dropped by ${get(row, "rule")}${broken(row)}.`;
      default: return "Not decided yet: the stages after extract have not run.";
    }
  };

  const link = (url) => {
    const safe = /^https?:\/\//i.test(url);
    const element = make(safe ? "a" : "span", url);
    if (safe) { element.href = url; element.rel = "noopener noreferrer nofollow"; }
    return element;
  };

  const searchFor = (text) => {
    const element = make("a", text);
    element.href = "#" + new URLSearchParams({ q: text });
    return element;
  };

  const facts = (row) => {
    const list = make("dl");
    const add = (name, content) => {
      if (content === null) return;
      const value = make("dd");
      value.append(typeof content === "number" ? number(content) : content);
      list.append(make("dt", name), value);
    };
    add("id", make("code", get(row, "id")));
    add("source", get(row, "source"));
    add("written by", get(row, "synthetic") ? "a language model (synthetic)" : null);
    add("origin", get(row, "origin"));
    add("URL", get(row, "url") === null ? null : link(get(row, "url")));
    add("duplicate of", get(row, "duplicate_of") === null ? null : searchFor(get(row, "duplicate_of")));
    add("similarity", get(row, "similarity"));
    add("licence", get(row, "license"));
    add("language", get(row, "language"));
    add("date", get(row, "date"));
    add("words", get(row, "words"));
    return list;
  };

  const entry = (row) => {
    const item = make("li"), heading = make("h2");
    heading.append(make("bdi", get(row, "title") || get(row, "origin")));
    item.append(heading, make("p", reason(row), `fate ${get(row, "fate").replace(" ", "-")}`), facts(row));
    return item;
  };

  const fate = (row) => get(row, "rule") || get(row, "fate");

  const search = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = words.length || source.value || rule.value;
    const found = !asked ? [] : data.rows.filter((row, number) =>
      (!source.value || get(row, "source") === source.value) && (!rule.value || fate(row) === rule.value) &&
      words.every((word) => haystacks[number].includes(word)));
    results.replaceChildren(...found.slice(0, MOST_RESULTS).map(entry));
    const shown = found.length > MOST_RESULTS ? `, the first ${MOST_RESULTS} of which are shown` : "";
    status.textContent = !asked ? "" : found.length === 1 ? "1 document" : `${number(found.length)} documents${shown}`;
  };

  const fill = (select, values) => {
    const known = new Set([...select.options].map((option) => option.value));
    for (const value of values) {
      if (known.has(value)) continue;
      const option = make("option", value);
      option.value = value;
      select.append(option);
    }
  };

  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    query.value = asked.get("q") || "";
    for (const [select, name] of [[source, "source"], [rule, "rule"]]) {
      fill(select, asked.getAll(name).slice(0, 1)); // none of its documents may be on this page
      select.value = asked.get(name) || "";
    }
    search();
  };

  fill(source, data.names.source);
  fill(rule, [...new Set(data.rows.map(fate))].sort());
  document.getElementById("form").addEventListener("submit", (event) => event.preventDefault());
  query.addEventListener("input", search);
  source.addEventListener("change", search);
  rule.addEventListener("change", search);
  addEventListener("hashchange", read);
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || document.activeElement === query) return;
    event.preventDefault();
    query.focus();
  });
  read();
})();
