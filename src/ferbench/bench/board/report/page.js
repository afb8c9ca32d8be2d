"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const boards = [...document.querySelectorAll("table.board")];
  const measured = [...document.querySelectorAll("tr.measured")];

  // choices: what there is to choose from; of the epochs the last one is the headline
  const fill = (id, key) => {
    const values = [...new Set(measured.map((row) => row.dataset[key]))].sort();
    for (const value of values) $(id).add(new Option(value, value));
  };
  fill("variant", "variant");
  fill("preset", "preset");
  for (const value of ["last", "best-on-val", "best-on-test"]) {
    if (value === "last" || measured.some((row) => row.dataset.selection === value)) $("selection").add(new Option(value, value));
  }
  $("selection").add(new Option("all", ""));

  const show = () => {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let rows = 0;
    for (const row of measured) {
      row.hidden = ["variant", "preset", "selection"].some((key) => $(key).value && row.dataset[key] !== $(key).value);
    }
    for (const board of boards) {
      for (const body of board.tBodies) {
        const text = body.textContent.toLowerCase();
        const any = [...body.rows].some((row) => row.className === "measured" && !row.hidden);
        body.hidden = !words.every((word) => text.includes(word)) || ($("only").checked && !any);
        rows += !body.hidden;
      }
    }
    $("count").textContent = `${rows} rows`;
  };

  // a column's order: rows without a shown number stay below, in the paper's order
  const number = (body, index) => {
    const row = [...body.rows].find((one) => one.className === "measured" && !one.hidden);
    const value = row && row.cells[index] && row.cells[index].dataset.value;
    return value === undefined ? NaN : Number(value);
  };
  const order = (board, index, direction) => {
    const bodies = [...board.tBodies].sort((a, b) => a.dataset.at - b.dataset.at);
    if (direction !== "none") {
      const sign = direction === "ascending" ? 1 : -1;
      bodies.sort((a, b) => {
        if (index === 0) return sign * a.rows[0].cells[0].textContent.localeCompare(b.rows[0].cells[0].textContent);
        const [x, y] = [number(a, index), number(b, index)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return sign * (x - y);
      });
    }
    board.append(...bodies);
  };
  for (const board of boards) {
    [...board.tBodies].forEach((body, at) => { body.dataset.at = at; });
    [...board.tHead.rows[0].cells].forEach((head, index) => {
      if (!head.hasAttribute("aria-sort")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { none: index ? "descending" : "ascending", descending: index ? "ascending" : "none", ascending: index ? "none" : "descending" };
        const direction = next[head.getAttribute("aria-sort")];
        for (const other of board.tHead.rows[0].cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", direction);
        order(board, index, direction);
      });
    });
  }
  for (const id of ["filter", "variant", "preset", "selection", "only"]) $(id).addEventListener("input", show);

  // runs
  const cards = [...document.querySelectorAll(".run")];
  const texts = new Map(cards.map((card) => [card, card.firstElementChild.textContent.toLowerCase() + card.id.toLowerCase()]));
  const showRuns = () => {
    const words = $("run-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      card.hidden = !words.every((word) => texts.get(card).includes(word));
      shown += !card.hidden;
    }
    $("run-count").textContent = `${shown} of ${cards.length} runs`;
  };
  $("run-sort").addEventListener("input", () => {
    const key = $("run-sort").value;
    const value = (card) => card.dataset[key] || "";
    const ordered = [...cards];
    if (key === "overall" || key === "mean") ordered.sort((a, b) => Number(value(b)) - Number(value(a)));
    else if (key) ordered.sort((a, b) => (key === "finished" ? -1 : 1) * value(a).localeCompare(value(b)));
    $("cards").append(...ordered);
  });
  $("run-filter").addEventListener("input", showRuns);

  // a link to something inside closed parts opens them
  const open = () => {
    let at = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const target = at;
    for (; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  for (const id of ["controls", "run-controls"]) {
    $(id).hidden = false;
    $(id).addEventListener("submit", (event) => event.preventDefault());
  }
  show();
  showRuns();
  open();
})();
