"use strict";
// Draws the figures of the page; while it is printed they are as wide as their part of the paper.
(function () {
  const PAPER_PIXELS = 680;
  const OPTIONS = { displayModeBar: false, responsive: true, showTips: false };
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = figures.map(function (figure) {
    const place = document.querySelector('[data-figure="' + figure.name + '"]');
    Plotly.newPlot(place, figure.data, figure.layout, OPTIONS);
    return place;
  });
  addEventListener("beforeprint", function () {
    plots.forEach(function (plot) {
      const columns = Math.min(2, plot.closest(".grid").children.length);
      Plotly.relayout(plot, { autosize: false, width: PAPER_PIXELS / columns - 16 });
    });
  });
  addEventListener("afterprint", function () {
    plots.forEach(function (plot) { Plotly.relayout(plot, { autosize: true, width: null }); });
  });
})();
