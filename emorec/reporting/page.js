"use strict";
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((first, second) => {
        const [one, other] = [value(first), value(second)];
        const [number, next] = [one, other].map((text) => (/^[+-]?[\d.]+(e-?\d+)?(\s|$)/.test(text) ? parseFloat(text) : NaN));
        if (Number.isNaN(number) !== Number.isNaN(next)) return Number.isNaN(number) ? 1 : -1; // what is unknown is last
        const order = Number.isNaN(number) ? one.localeCompare(other) : number - next;
        return down ? -order : order;
      });
      body.append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(field.dataset.filters).tBodies[0].rows];
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
