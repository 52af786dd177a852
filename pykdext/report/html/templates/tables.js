"use strict";
// Tables of class "sortable": a button in each title sorts, and long ones get a field that filters.
(function () {
  const FILTERED_ROWS = 12;

  function valueOf(row, column) {
    const cell = row.cells[column];
    if (!cell || cell.colSpan > 1) return null;
    if (cell.dataset.value === undefined) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  }

  function compare(left, right) {
    if (typeof left === "number") return left - right;
    return left < right ? -1 : left > right ? 1 : 0;
  }

  // What is not known stays last whichever way the rest is sorted; equals keep their order.
  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, function (row) { return { row: row, value: valueOf(row, column) }; });
    keyed.sort(function (left, right) {
      if (left.value === null || right.value === null) return (left.value === null) - (right.value === null);
      return descending ? compare(right.value, left.value) : compare(left.value, right.value);
    });
    body.append(...keyed.map(function (item) { return item.row; }));
    Array.from(table.tHead.rows[0].cells, function (title, index) {
      if (index === column) title.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else title.removeAttribute("aria-sort");
    });
  }

  function makeSortable(table) {
    Array.from(table.tHead.rows[0].cells, function (title, column) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener("click", function () {
        const sorted = title.getAttribute("aria-sort");
        const numeric = title.classList.contains("number");
        sort(table, column, sorted ? sorted === "ascending" : numeric);
      });
    });
  }

  function makeFilter(table) {
    const rows = Array.from(table.tBodies[0].rows);
    const texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
    const label = document.createElement("label");
    const field = document.createElement("input");
    const count = document.createElement("output");
    field.type = "search";
    label.className = "filter";
    label.append("Filter ", field, count);
    field.addEventListener("input", function () {
      const wanted = field.value.toLowerCase();
      let shown = 0;
      rows.forEach(function (row, index) {
        row.hidden = !texts[index].includes(wanted);
        shown += !row.hidden;
      });
      count.textContent = wanted ? " " + shown + " of " + rows.length + " rows" : "";
    });
    table.parentElement.before(label);
  }

  document.querySelectorAll("table.sortable").forEach(function (table) {
    makeSortable(table);
    if (table.tBodies[0].rows.length > FILTERED_ROWS) makeFilter(table);
  });
})();
