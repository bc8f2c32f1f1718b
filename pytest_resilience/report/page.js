"use strict";
(() => {
  // cells: [test, experiment, verdict, flags, milliseconds, reason, repeat, hidden, entries], the
  // first three as indexes, reason and repeat as indexes of texts; in `repeat`, NUL stands for the
  // test. flags: 1 flaky, 2 in the baseline. entries, flat: [milliseconds since the one before, kind, source, text, …].
  const data = JSON.parse(document.getElementById("data").textContent);
  const [TEST, EXPERIMENT, VERDICT, FLAGS, DURATION, REASON, REPEAT, HIDDEN, ENTRIES] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8];
  const byId = (id) => document.getElementById(id);
  // Text goes in as text, never as markup.
  const element = (tag, text = "", names = "") => {
    const made = document.createElement(tag);
    if (text !== "") made.textContent = text;
    if (names) made.className = names;
    return made;
  };
  const seconds = (milliseconds) => (milliseconds / 1000).toFixed(3) + " s";

  const table = byId("map");
  const rows = data.tests.map((name) => ({ name, words: name.toLowerCase(), cells: [], line: null }));
  for (const cell of data.cells) rows[cell[TEST]].cells[cell[EXPERIMENT]] = cell;

  // A long name breaks between its parts, where it can.
  function breakable(name) {
    return name.split(/(?<=\/|::)/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));
  }

  // Schedules of an exploration begin alike: which operation it is stands first, its fault last.
  function withoutMiddle(name) {
    const letters = Array.from(name);
    return letters.length <= 24 ? name : letters.slice(0, 9).join("") + "…" + letters.slice(-14).join("");
  }

  function draw() {
    const head = element("tr");
    const corner = element("th", "test");
    corner.scope = "col";
    head.append(corner);
    for (const [name, what, weight] of data.experiments) {
      const heading = element("th");
      heading.scope = "col";
      heading.title = [what || name, "weight " + weight].join("\n");
      heading.append(element("span", withoutMiddle(name)));
      heading.setAttribute("aria-label", name);
      head.append(heading);
    }
    table.tHead.append(head);
    const body = document.createDocumentFragment();
    rows.forEach((row, at) => {
      row.line = element("tr");
      const heading = element("th");
      heading.scope = "row";
      heading.append(...breakable(row.name));
      row.line.append(heading);
      data.experiments.forEach((_, column) => row.line.append(square(row.cells[column])));
      row.line.dataset.row = at;
      body.append(row.line);
    });
    table.tBodies[0].append(body);
    const first = table.querySelector("td");
    if (first) first.tabIndex = 0;
  }

  function remarks(cell) {
    return (cell[FLAGS] & 1 ? ", flaky" : "") + (cell[FLAGS] & 2 ? ", in the baseline" : "");
  }

  function square(cell) {
    if (!cell) return element("td");
    const [name, words, letter] = data.verdicts[cell[VERDICT]];
    const names = [name, ...(cell[FLAGS] & 1 ? ["flaky"] : []), ...(cell[FLAGS] & 2 ? ["known"] : [])];
    const made = element("td", letter, names.join(" "));
    made.tabIndex = -1;
    made.setAttribute("aria-label", words + remarks(cell));
    made.setAttribute("aria-haspopup", "dialog");
    return made;
  }

  const chosen = new Set();
  let opened = null; // the cell whose dialog is open

  function drawVerdicts() {
    const counts = data.verdicts.map(() => 0);
    for (const cell of data.cells) counts[cell[VERDICT]] += 1;
    for (let verdict = counts.length - 1; verdict >= 0; verdict -= 1) {
      if (!counts[verdict]) continue;
      const [name, words, letter, meaning] = data.verdicts[verdict];
      const button = element("button");
      button.type = "button";
      button.dataset.verdict = name;
      button.title = meaning;
      button.setAttribute("aria-pressed", "false");
      const sample = element("i", letter, name);
      sample.ariaHidden = "true"; // the words say it
      button.append(sample, words + " " + counts[verdict]);
      button.addEventListener("click", () => {
        if (!chosen.delete(verdict)) chosen.add(verdict);
        filter();
        keepView();
      });
      byId("verdicts").append(button);
    }
  }

  function filter() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const named = words.every((word) => row.words.includes(word));
      const met = !chosen.size || row.cells.some((cell) => cell && chosen.has(cell[VERDICT]));
      row.line.hidden = !(named && met);
      shown += named && met;
      row.cells.forEach((cell, column) => {
        const pale = chosen.size > 0 && !chosen.has(cell[VERDICT]);
        row.line.cells[column + 1].classList.toggle("pale", pale);
      });
    }
    for (const button of byId("verdicts").children) {
      const verdict = data.verdicts.findIndex(([name]) => name === button.dataset.verdict);
      button.setAttribute("aria-pressed", String(chosen.has(verdict)));
    }
    byId("shown").textContent = shown + " of " + rows.length + " tests";
  }

  // What is shown stands in the address, so that it can be sent: #words=…&verdicts=…&test=…&experiment=…
  function keepView() {
    const view = new URLSearchParams();
    const words = byId("filter").value.trim();
    if (words) view.set("words", words);
    if (chosen.size) view.set("verdicts", [...chosen].map((each) => data.verdicts[each][0]).join(","));
    if (opened) {
      view.set("test", data.tests[opened[TEST]]);
      view.set("experiment", data.experiments[opened[EXPERIMENT]][0]);
    }
    const hash = view.toString();
    history.replaceState(null, "", hash ? "#" + hash : location.pathname + location.search);
  }

  function showView() {
    const view = new URLSearchParams(location.hash.slice(1));
    byId("filter").value = view.get("words") ?? "";
    chosen.clear();
    for (const name of (view.get("verdicts") ?? "").split(",")) {
      const verdict = data.verdicts.findIndex(([known]) => known === name);
      if (verdict >= 0) chosen.add(verdict);
    }
    filter();
    const row = rows.find(({ name }) => name === view.get("test"));
    const column = data.experiments.findIndex(([name]) => name === view.get("experiment"));
    const cell = row?.cells[column];
    if (cell && cell !== opened) {
      byId("cell").close();
      focus(row.line.cells[column + 1]);
      open(cell);
    } else if (!cell) byId("cell").close();
  }

  function open(cell) {
    const test = data.tests[cell[TEST]];
    const [experiment, what, weight] = data.experiments[cell[EXPERIMENT]];
    const [name, words, , meaning] = data.verdicts[cell[VERDICT]];
    byId("cell-test").replaceChildren(...breakable(test));
    byId("cell-verdict").textContent = words + remarks(cell);
    byId("cell-verdict").className = "badge " + name;
    byId("cell-meaning").textContent = meaning;
    const named = what === experiment || what.startsWith(experiment + ": ");
    const said = named ? what : [experiment, what].filter(Boolean).join(" · ");
    const lasted = cell[DURATION] ? seconds(cell[DURATION]) : ""; // one that was not run took none
    byId("cell-experiment").textContent = [said, "weight " + weight, lasted].filter(Boolean).join(" · ");
    byId("cell-reason").textContent = data.texts[cell[REASON]];
    byId("cell-reason").hidden = !data.texts[cell[REASON]];
    const repeat = data.texts[cell[REPEAT]].replaceAll("\0", () => test);
    byId("cell-repeat").querySelector("code").textContent = repeat;
    byId("cell-repeat").hidden = !repeat;
    drawTimeline(cell);
    byId("cell").showModal();
    byId("cell").scrollTop = 0;
    opened = cell;
    keepView();
  }

  function drawTimeline(cell) {
    const lines = [];
    let at = 0;
    const entries = cell[ENTRIES];
    for (let i = 0; i < entries.length; i += 4) {
      at += entries[i];
      const kind = data.kinds[entries[i + 1]];
      const line = element("li", "", kind);
      const [source, text] = [data.texts[entries[i + 2]], data.texts[entries[i + 3]]];
      line.append(element("time", "+" + seconds(at)), element("span", kind));
      line.append(element("p", [source, text].filter(Boolean).join(": ")));
      lines.push(line);
    }
    byId("cell-timeline").replaceChildren(...lines);
    const hidden = cell[HIDDEN] ? "… " + cell[HIDDEN] + " earlier: see the JSON report" : "";
    byId("cell-hidden").textContent = lines.length ? hidden : "nothing was recorded";
  }

  function cellOf(square) {
    return rows[square.parentNode.dataset.row].cells[square.cellIndex - 1];
  }

  function focus(square) {
    table.querySelector("td[tabindex='0']")?.setAttribute("tabindex", "-1");
    square.tabIndex = 0;
    square.focus();
  }

  // Up and down go over the lines that the filter has left.
  function nextLine(line, way) {
    let next = line[way];
    while (next && next.hidden) next = next[way];
    return next;
  }

  function neighbour(square, key) {
    const line = square.parentNode;
    const inLine = (other) => other?.cells[square.cellIndex];
    switch (key) {
      case "ArrowLeft": return square.cellIndex > 1 ? square.previousElementSibling : null;
      case "ArrowRight": return square.nextElementSibling;
      case "ArrowUp": return inLine(nextLine(line, "previousElementSibling"));
      case "ArrowDown": return inLine(nextLine(line, "nextElementSibling"));
      case "Home": return line.cells[1];
      case "End": return line.cells[line.cells.length - 1];
      default: return null;
    }
  }

  function activate(event) {
    const square = event.target.closest("td");
    if (!square || !cellOf(square)) return;
    focus(square);
    open(cellOf(square));
  }

  table.addEventListener("click", activate);
  table.addEventListener("keydown", (event) => {
    const square = event.target.closest("td");
    if (!square) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      activate(event);
      return;
    }
    const next = neighbour(square, event.key);
    if (next) {
      event.preventDefault();
      focus(next);
    }
  });
  byId("close").addEventListener("click", () => byId("cell").close());
  byId("cell").addEventListener("close", () => {
    if (byId("cell").open) return; // another cell was opened meanwhile
    opened = null;
    keepView();
  });
  byId("cell").addEventListener("click", (event) => {
    if (event.target === byId("cell")) byId("cell").close(); // beside it
  });
  byId("cell-repeat").querySelector("button").addEventListener("click", async (event) => {
    const code = byId("cell-repeat").querySelector("code");
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      event.target.textContent = "copied";
      setTimeout(() => { event.target.textContent = "copy"; }, 1500);
    } catch {
      event.target.textContent = "selected"; // a page may not be let near the clipboard
    }
  });
  byId("filter").addEventListener("input", () => {
    filter();
    keepView();
  });
  addEventListener("hashchange", showView);

  draw();
  drawVerdicts();
  showView();
})();
