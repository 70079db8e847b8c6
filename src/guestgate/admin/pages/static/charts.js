// Draws what stands in [data-chart]; colours are the page's own, and follow its theme.
"use strict";
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new Map();
  const HEIGHT = 210;
  // Steps of an axis that counts people.
  const WHOLE = [1, 2, 5].flatMap((n) => [1, 10, 100, 1e3, 1e4, 1e5].map((ten) => n * ten)).sort((a, b) => a - b);

  const hour = uPlot.fmtDate("{HH}:{mm}"), day = uPlot.fmtDate("{WWW} {D} {MMM}");
  const times = (timezone) => ({
    ...axis(), space: 84,
    values: (_, ticks, __, ___, step) =>
      ticks.map((at) => {
        const local = timezone ? inZone(at, timezone) : new Date(at * 1000);
        return (step >= 3600 && local.getHours() === 0 ? day : hour)(local);
      }),
  });
  const inZone = (at, timezone) => uPlot.tzDate(new Date(at * 1000), timezone);

  const axis = () => ({
    stroke: colour("--dim"), grid: { stroke: colour("--rule"), width: 1 }, ticks: { stroke: colour("--rule"), width: 1 },
    font: "12px system-ui",
  });
  const bars = (label, name) => ({
    label, stroke: colour(name), fill: colour(name), width: 0, points: { show: false },
    paths: uPlot.paths.bars({ size: [0.8, 40] }),
  });
  // A minute between two in which nobody came is a point, not a line.
  const line = (label, name, dash) => ({
    label, stroke: colour(name), width: 2, dash, points: { show: !dash, size: 4, fill: colour(name) },
  });

  // Bars on one another: the tallest is drawn first and bears the sum, the legend says each by itself.
  function stacked(values, time) {
    const below = (...names) => values.at.map((_, i) => names.reduce((sum, name) => sum + values[name][i], 0));
    const step = values.at[1] - values.at[0];
    const own = (name) => (_, __, ___, i) => (i === null ? "–" : values[name][i]);
    return {
      data: [values.at, below("allowed", "denied", "undecided"), below("denied", "undecided"), values.undecided],
      series: [
        { value: time, label: "Time" }, { ...bars("Allowed", "--open"), value: own("allowed") },
        { ...bars("Denied", "--shut"), value: own("denied") }, { ...bars("Undecided", "--warn"), value: own("undecided") },
      ],
      axes: [times(values.timezone), { ...axis(), size: 62, incrs: WHOLE }],
      scales: { x: { time: true, range: (_, first, last) => [first - step, last + step] } },
    };
  }

  // What each kind of chart shows of its values.
  const kinds = {
    hours: (values) => ({ ...stacked(values, "{YYYY}-{MM}-{DD} {HH}:{mm}"), timezone: values.timezone }),
    minutes: (values) => stacked(values, "{HH}:{mm}"),
    latency: (values) => ({
      data: [values.at, values.slowest, values.mean, values.at.map(() => 750)],
      series: [
        { value: "{HH}:{mm}", label: "Time" }, line("Slowest", "--warn"), line("Mean", "--accent"), line("The door gives up", "--shut", [6, 4]),
      ],
      axes: [times(), { ...axis(), values: (_, ticks) => ticks.map((ms) => `${ms} ms`), size: 62 }],
      scales: { y: { range: (_, low, high) => [0, Math.max(800, high || 0)] } },
    }),
  };

  // Where the values come live, they stand in a part of the page that is swapped.
  const valuesOf = (place) =>
    place.dataset.values ?? document.querySelector(`#chart-values .${place.dataset.from}`).getAttribute("value");

  function draw(place) {
    const chart = kinds[place.dataset.chart](JSON.parse(valuesOf(place)));
    drawn.get(place)?.destroy();
    place.replaceChildren();
    const options = {
      width: place.clientWidth, height: HEIGHT, series: chart.series, axes: chart.axes,
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max(4, high * 1.1 || 0)] }, ...chart.scales },
      cursor: { drag: { x: false, y: false } },
    };
    if (chart.timezone) options.tzDate = (at) => inZone(at, chart.timezone);
    drawn.set(place, new uPlot(options, chart.data, place));
  }

  const redraw = () => document.querySelectorAll("[data-chart]").forEach(draw);

  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) redraw();
    width = innerWidth;
  });
  document.getElementById("chart-values")?.addEventListener("htmx:sseMessage", redraw);
  // The server ends the stream with the session.
  addEventListener("htmx:sseClose", (event) => {
    if (event.detail.type === "message") location.assign("/login");
  });
})();
