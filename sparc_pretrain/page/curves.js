// Values of charts where one points: a line at the nearest step, each curve's value in its legend.
// Mouse, touch, and the arrow keys (Home, End; Escape leaves).
"use strict";
for (const svg of document.querySelectorAll("svg.chart[data-told]")) {
  const told = JSON.parse(svg.dataset.told), NS = "http://www.w3.org/2000/svg";
  const [left, right, low, high] = told.x, [bottom, top, least, most] = told.y;
  const steps = [...new Set(told.curves.flat().map((point) => point[0]))].sort((a, b) => a - b);
  const values = [...svg.closest("figure").querySelectorAll(".legend .value")];
  const ends = values.map((value) => value.textContent);
  const line = svg.querySelector(".cursor"), said = svg.closest("figure").querySelector(".at");
  const dots = told.curves.map((_, n) => {
    const dot = document.createElementNS(NS, "circle");
    dot.setAttribute("class", `dot ${values[n].closest("li").className}`);
    dot.setAttribute("r", 4);
    return dot;
  });
  let at = -1;
  const across = (step) => left + (step - low) / (high - low) * (right - left);
  const show = (number) => {
    at = Math.max(0, Math.min(steps.length - 1, number));
    const step = steps[at], words = [];
    line.setAttribute("x1", across(step));
    line.setAttribute("x2", across(step));
    told.curves.forEach((points, n) => {
      // a curve that is logged at other steps shows its last value before
      const before = points.filter((point) => point[0] <= step), point = before[before.length - 1];
      values[n].textContent = point ? `${point[1]} at step ${point[0].toLocaleString("en")}` : "\u2013";
      words.push(values[n].textContent);
      if (!point) { dots[n].remove(); return; }
      dots[n].setAttribute("cx", across(point[0]));
      dots[n].setAttribute("cy", bottom - (point[1] - least) / (most - least) * (bottom - top));
      svg.append(dots[n]);
    });
    said.textContent = words.join("; ");
  };
  const leave = () => {
    at = -1;
    line.setAttribute("x1", -9);
    line.setAttribute("x2", -9);
    dots.forEach((dot) => dot.remove());
    values.forEach((value, n) => { value.textContent = ends[n]; });
    said.textContent = "";
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
    const step = low + ((event.clientX - box.left) / box.width * width - left) / (right - left) * (high - low);
    show(steps.reduce((best, one, n) => Math.abs(one - step) < Math.abs(steps[best] - step) ? n : best, 0));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at < 0 ? steps.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
    if (event.key === "Escape") leave();
    if (!(event.key in to)) return;
    event.preventDefault();
    show(to[event.key]);
  });
}
