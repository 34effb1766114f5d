// Valence and arousal over the last minute. A window without evidence breaks the line.

const SPAN_S = 60;
const HEIGHT_PX = 150;

// Asked at every drawing, so that a change of theme is a redraw.
const colour = (name) => (plot) => getComputedStyle(plot.root).getPropertyValue(name).trim();

function axis(more) {
  return { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui", ...more };
}

function options(width) {
  const line = { width: 2, points: { show: false }, spanGaps: false };
  return {
    width,
    height: HEIGHT_PX,
    padding: [8, 16, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      // Always a whole minute: the picture moves, its scale does not.
      x: { time: false, range: (_, __, newest) => [(newest ?? 0) - SPAN_S, newest ?? 0] },
      y: { range: [-1, 1] },
    },
    axes: [
      axis({
        size: 24,
        splits: (_, __, oldest, newest) => [0, 15, 30, 45, 60].map((s) => newest - SPAN_S + s),
        values: (_, ticks) => ticks.map((tick) => (tick === ticks.at(-1) ? "now" : `−${ticks.at(-1) - tick} s`)),
      }),
      axis({ size: 42, splits: () => [-1, -0.5, 0, 0.5, 1] }),
    ],
    series: [
      {},
      { ...line, label: "valence", stroke: colour("--valence") },
      { ...line, label: "arousal", stroke: colour("--arousal"), dash: [6, 4] },
    ],
  };
}

export class Trace {
  #plot;

  constructor(element) {
    this.#plot = new uPlot(options(element.clientWidth || 320), [[], [], []], element);
    new ResizeObserver(() => this.#plot.setSize({ width: element.clientWidth, height: HEIGHT_PX })).observe(element);
    for (const query of ["(prefers-color-scheme: light)", "(prefers-contrast: more)", "(forced-colors: active)"])
      matchMedia(query).addEventListener("change", () => this.#plot.redraw(false, true));
  }

  // Rows of {ms, valence, arousal}; null where nothing could be measured.
  draw(rows) {
    this.#plot.setData([rows.map(({ ms }) => ms / 1000), rows.map((row) => row.valence), rows.map((row) => row.arousal)]);
  }
}
