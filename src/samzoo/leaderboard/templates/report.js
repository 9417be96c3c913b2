"use strict";
// The page is complete without this: it adds sorting, the stepping through replays, and opens what is folded for print.

function key(cell) {
  if (!cell.hasAttribute("data-v")) return cell.textContent.trim();
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
}

function sortBy(header, column) {
  const body = header.closest("table").tBodies[0];
  const rows = Array.from(body.rows);
  const isNumber = rows.some((row) => typeof key(row.cells[column]) === "number");
  const before = header.getAttribute("aria-sort");
  const ascending = before ? before === "descending" : !isNumber;
  rows.sort((one, other) => {
    const [a, b] = [key(one.cells[column]), key(other.cells[column])];
    if (a === null || b === null) return (a === null) - (b === null);
    const order = isNumber ? a - b : a.localeCompare(b, "en");
    return ascending ? order : -order;
  });
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(header, column));
    header.append(button);
  });
}

function make(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

for (const frames of document.querySelectorAll(".frames")) {
  const items = Array.from(frames.children);
  const back = make("button", { type: "button", textContent: "Previous" });
  const next = make("button", { type: "button", textContent: "Next" });
  const range = make("input", { type: "range", min: 1, max: items.length, step: 1, value: 1 });
  const label = make("label");
  label.append("Frame", range);
  const status = make("p");
  status.setAttribute("aria-live", "polite");
  const show = (number) => {
    range.value = number;
    items.forEach((item, i) => { item.hidden = i !== number - 1; });
    status.textContent = `${number} of ${items.length}: ${items[number - 1].dataset.when}`;
    range.setAttribute("aria-valuetext", status.textContent);
    back.disabled = number === 1;
    next.disabled = number === items.length;
  };
  const step = (change, button, other) => {
    show(Number(range.value) + change);
    if (button.disabled) other.focus();
  };
  back.addEventListener("click", () => step(-1, back, next));
  next.addEventListener("click", () => step(1, next, back));
  range.addEventListener("input", () => show(Number(range.value)));
  const controls = make("div", { className: "controls" });
  controls.setAttribute("role", "group");
  controls.setAttribute("aria-label", frames.dataset.label);
  controls.append(back, label, next, status);
  frames.before(controls);
  show(1);
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.shut = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-shut]")) {
    details.open = false;
    delete details.dataset.shut;
  }
});
