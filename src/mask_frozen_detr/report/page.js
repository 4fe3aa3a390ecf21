// Fits the charts to their columns, and shows the figures of the gallery that every filter lets through.
"use strict";
// A chart is drawn while the page is still read: when its neighbours are there, its column is narrower.
window.addEventListener("load", () => window.dispatchEvent(new Event("resize")));
(function () {
  const form = document.getElementById("filters");
  if (!form) return;
  const figures = Array.from(document.querySelectorAll(".gallery figure"));
  const shown = document.getElementById("shown");
  const least = document.getElementById("least");

  function passes(figure) {
    for (const name of ["kind", "class", "size"]) {
      const wanted = form.elements[name].value;
      if (wanted && figure.dataset[name] !== wanted) return false;
    }
    const score = figure.dataset.score;
    return score === "" ? Number(form.elements.score.value) === 0 : Number(score) >= Number(form.elements.score.value);
  }

  function update() {
    let count = 0;
    for (const figure of figures) {
      figure.hidden = !passes(figure);
      count += !figure.hidden;
    }
    least.textContent = Number(form.elements.score.value).toFixed(2);
    shown.textContent = `${count} of ${figures.length} shown`;
  }

  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
})();
