// Plots of a value over time: an SVG of the shape, and HTML for the text, so that nothing is distorted.

import { el, moment } from "./text.js";

const WIDTH = 1000;
const HEIGHT = 100;

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function shapes(places, isBars) {
  if (isBars) {
    // Many stand side by side, few apart.
    const width = Math.min(24, (WIDTH / places.length) * (places.length > 90 ? 1 : 0.62));
    return places.map(([x, y]) =>
      svg("rect", { class: "bar", x: Math.min(Math.max(x - width / 2, 0), WIDTH - width), y, width, height: HEIGHT - y }));
  }
  const line = places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(2)}`).join("L");
  const [first, last] = [places[0][0], places[places.length - 1][0]];
  return [
    svg("path", { class: "fill", d: `M${first} ${HEIGHT}L${line}L${last} ${HEIGHT}Z` }),
    svg("path", { class: "line", d: `M${line}` }),
  ];
}

/** points: {time, value}, the oldest first; open(index) shows what is behind one. */
export function plot({ title, points, format, isBars = false, open }) {
  const most = Math.max(...points.map((point) => point.value), 0);
  const times = points.map((point) => new Date(point.time).getTime());
  const from = times[0];
  const length = times[times.length - 1] - from;
  const places = points.map((point, index) => [
    length ? ((times[index] - from) / length) * WIDTH : WIDTH / 2,
    HEIGHT - (most ? point.value / most : 0) * HEIGHT,
  ]);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(...shapes(places, isBars));
  const dot = el("div", { class: "dot", hidden: true });
  const readout = el("b");
  const note = el("small");
  const date = el("span");
  let chosen = points.length - 1;

  function choose(index, isSeen) {
    chosen = Math.min(Math.max(index, 0), points.length - 1);
    readout.textContent = format(points[chosen].value);
    note.textContent = isSeen ? "" : "newest:";
    date.textContent = isSeen ? `${moment(points[chosen].time)} UTC` : moment(points[points.length - 1].time).slice(0, 10);
    dot.hidden = !isSeen && points.length > 1;
    dot.style.left = `${places[chosen][0] / 10}%`;
    dot.style.top = `${places[chosen][1]}%`;
  }

  const area = el("div", {
    class: "area",
    tabindex: 0,
    role: "group",
    "aria-label": `${title}: ${format(points[chosen].value)} in the newest of ${points.length} backups, ${format(most)} at most. ` +
      "Arrow keys move, Enter opens a backup.",
    onpointermove: (event) => {
      const { left, width } = area.getBoundingClientRect();
      const x = ((event.clientX - left) / width) * WIDTH;
      choose(places.reduce((best, place, index) => (Math.abs(place[0] - x) < Math.abs(places[best][0] - x) ? index : best), 0), true);
    },
    onpointerleave: () => choose(points.length - 1, false),
    onblur: () => choose(points.length - 1, false),
    onclick: () => open(chosen),
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) choose(chosen + step, true);
      else if (event.key === "Enter") open(chosen);
      else return;
      event.preventDefault();
    },
  }, drawing, dot, el("span", { class: "most" }, `highest: ${format(most)}`));
  choose(chosen, false);
  return el("div", { class: "plot panel" },
    el("div", { class: "readout" }, el("h3", {}, title), el("span", {}, note, " ", readout)),
    area,
    el("div", { class: "span" }, el("span", {}, points.length > 1 ? moment(points[0].time).slice(0, 10) : ""), date));
}
