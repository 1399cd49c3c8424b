"use strict";
// One page at a time: the one that the address names, else the overview. Without JavaScript all of them stand below each other.
const pages = [...document.querySelectorAll(".page")];
const showPage = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const page = target?.closest(".page") ?? pages[0];
  for (const other of pages) other.hidden = other !== page;
  for (const viewer of page.querySelectorAll(".viewer:not(.ready)")) startViewer(viewer);
  if (!target) return;
  target.scrollIntoView();
  if (target === page) page.querySelector("h2")?.focus({ preventScroll: true });
};

// Boxes of a cell on the slices of its fold's case; lengths in mm.
const films = JSON.parse(document.getElementById("films").textContent);
const svgNode = (name, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const slider = (viewer, text, attributes) => {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "range" }, attributes);
  label.append(text, input);
  viewer.append(label);
  return input;
};
const startViewer = (viewer) => {
  viewer.classList.add("ready");
  const film = films[viewer.dataset.film], boxes = JSON.parse(viewer.querySelector("script").textContent);
  const { left, top, width, height } = film, slices = film.slices.length;
  const picture = svgNode("svg", { viewBox: `${left} ${top} ${width} ${height}`, role: "img", class: "slice" });
  const strip = svgNode("image", { href: film.source, x: left, width, height: height * slices, preserveAspectRatio: "none" });
  const drawn = svgNode("g", {});
  picture.append(strip, drawn);
  viewer.append(picture);
  const middle = (box) => (box[0] + box[3]) / 2;
  const first = [...boxes.truths, ...boxes.detections].map(middle)[0] ?? film.z[slices >> 1];
  const nearest = film.z.reduce((best, z, i) => (Math.abs(z - first) < Math.abs(film.z[best] - first) ? i : best), 0);
  const place = slider(viewer, "Slice ", { min: 0, max: slices - 1, step: 1, value: nearest });
  const least = slider(viewer, "Detections with a score of at least ", { min: 0, max: 1, step: 0.01, value: boxes.threshold });
  const said = document.createElement("output");
  viewer.append(said);
  const draw = () => {
    const index = Number(place.value), z = film.z[index], threshold = Number(least.value);
    const crosses = (box) => box[0] <= z && z <= box[3];
    const kinds = { truth: boxes.truths, ignored: boxes.ignored, found: boxes.detections.filter((box) => box[6] >= threshold) };
    strip.setAttribute("y", top - index * height);
    drawn.replaceChildren();
    const size = Math.max(width, height) / 32;
    for (const [kind, all] of Object.entries(kinds)) {
      for (const box of all.filter(crosses)) {
        drawn.append(svgNode("rect", { class: kind, x: box[2], y: box[1], width: box[5] - box[2], height: box[4] - box[1] }));
        if (kind !== "found") continue;
        const text = svgNode("text", { x: box[2], y: Math.max(box[1] - size / 4, top + size), "font-size": size });
        text.textContent = box[6].toFixed(2);
        drawn.append(text);
      }
    }
    const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
    const here = (kind) => kinds[kind].filter(crosses).length;
    const words = `${film.case}, slice ${film.slices[index]} (z = ${z.toFixed(1)} mm): ${count(here("truth") + here("ignored"), "object")}, ` +
      `${count(here("found"), "detection")} with a score of at least ${threshold.toFixed(2)}`;
    picture.setAttribute("aria-label", words);
    place.setAttribute("aria-valuetext", `slice ${film.slices[index]}`);
    said.textContent = words;
  };
  place.addEventListener("input", draw);
  least.addEventListener("input", draw);
  draw();
};
addEventListener("hashchange", showPage);
showPage();

// Lines sort by the number a cell starts with, or else by its text; a filter keeps lines that hold all its words.
const value = (line, column) => {
  const text = line.cells[column].textContent.trim();
  const number = parseFloat(text.replaceAll("\u2212", "-").replace(/^[<>]\s*/, ""));
  return Number.isNaN(number) ? text : number;
};
const compare = (a, b) => {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b);
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], lines = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sorted = lines.map((line) => [value(line, column), line]).sort((a, b) => compare(a[0], b[0]) * (descending ? -1 : 1));
    for (const [, line] of sorted) { line.classList.remove("first"); body.append(line); }
  }));
  const filter = table.closest(".table").previousElementSibling;
  const input = filter.querySelector("input"), status = filter.querySelector("[role=status]");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of lines) {
      const text = line.textContent.toLowerCase();
      line.hidden = !words.every((word) => text.includes(word));
    }
    const shown = lines.filter((line) => !line.hidden).length;
    status.textContent = words.length ? `${shown} of ${lines.length} lines` : "";
  });
}
