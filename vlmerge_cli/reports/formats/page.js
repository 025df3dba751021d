"use strict";

/* Tables are sorted by their headings: rising, falling, as they were. Cells without a record stay last. */
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    body.append(...(next === "none" ? original : sorted(original, place, next === "ascending" ? 1 : -1)));
  }));
}

function sorted(rows, place, sign) {
  const key = (row) => {
    const cell = row.cells[place];
    if (cell.querySelector(".none")) return null;
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number"
    ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return rows.map((row) => [key(row), row]).sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * order(a, b);
  }).map(([, row]) => row);
}

/* The numbers behind the verdicts: all at once, and on paper always. */
const cards = [...document.querySelectorAll("details.verdict")];
const button = document.querySelector(".open-all");
if (button) {
  button.addEventListener("click", () => {
    const open = !cards.every((card) => card.open);
    cards.forEach((card) => { card.open = open; });
    button.textContent = open ? "Hide all numbers" : "Show all numbers";
  });
}
window.addEventListener("beforeprint", () => cards.forEach((card) => { card.open = true; }));
