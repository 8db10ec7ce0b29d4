// Curves over epochs: point at one, or use the arrow keys, to read its values.
function charts(into, list, colours) {
  const WIDTH = 360, HEIGHT = 220, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 34;
  const svg = (name, attributes, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return parent.appendChild(element);
  };
  const html = (name, text, parent) => {
    const element = document.createElement(name);
    element.textContent = text;
    return parent.appendChild(element);
  };
  const short = (value) => String(Number(value.toPrecision(4)));

  // Four to eight round numbers between two numbers.
  function ticks(low, high) {
    const raw = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }

  for (const chart of list) {
    const box = into.appendChild(document.createElement("div"));
    box.className = "chart";
    html("h3", chart.title, box);
    const all = chart.series.flatMap((s) => s.mean.flatMap((m, i) => (s.std ? [m - s.std[i], m + s.std[i]] : [m])));
    const epochs = [...new Set(chart.series.flatMap((s) => s.epochs))].sort((a, b) => a - b);
    let low = Math.min(...all), high = Math.max(...all);
    const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    [low, high] = [low - margin, high + margin];
    const first = epochs[0], last = epochs[epochs.length - 1];
    const x = (epoch) => LEFT + ((WIDTH - LEFT - RIGHT) * (last === first ? 0.5 : (epoch - first) / (last - first)));
    const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - value)) / (high - low);

    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, tabindex: 0, role: "application" }, box);
    root.setAttribute("aria-label", `${chart.title} over epochs. Left and right arrow keys read values.`);
    for (const value of ticks(low, high)) {
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), stroke: "#e6e9ee" }, root);
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, root).textContent = short(value);
    }
    for (const epoch of ticks(first, last).filter(Number.isInteger)) {
      svg("text", { x: x(epoch), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, root).textContent = epoch;
    }
    svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 3, "text-anchor": "middle" }, root).textContent = `epoch; ${chart.unit}`;
    for (const series of chart.series) {
      const colour = colours[series.colour % colours.length];
      const points = series.epochs.map((epoch, i) => `${x(epoch)},${y(series.mean[i])}`);
      if (series.std) {
        const edge = (sign) => series.epochs.map((epoch, i) => `${x(epoch)},${y(series.mean[i] + sign * series.std[i])}`);
        svg("polygon", { points: [...edge(1), ...edge(-1).reverse()].join(" "), fill: colour, opacity: 0.2 }, root);
      }
      const line = { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2 };
      svg("polyline", series.dashed ? { ...line, "stroke-dasharray": "5 4" } : line, root);
      if (points.length === 1) svg("circle", { cx: x(series.epochs[0]), cy: y(series.mean[0]), r: 3, fill: colour }, root);
    }
    const cursor = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#5b6573", "stroke-dasharray": "2 2" }, root);
    const dots = svg("g", {}, root);
    const read = box.appendChild(document.createElement("div"));
    read.className = "read";
    read.setAttribute("aria-live", "polite");

    let now = epochs.length - 1;
    function show(place) {
      now = Math.max(0, Math.min(epochs.length - 1, place));
      const epoch = epochs[now];
      cursor.setAttribute("x1", x(epoch));
      cursor.setAttribute("x2", x(epoch));
      dots.replaceChildren();
      read.replaceChildren();
      html("b", `epoch ${epoch}`, read);
      for (const series of chart.series) {
        const i = series.epochs.indexOf(epoch);
        if (i < 0) continue;
        const colour = colours[series.colour % colours.length];
        svg("circle", { cx: x(epoch), cy: y(series.mean[i]), r: 3.5, fill: colour, stroke: "#fff" }, dots);
        const row = read.appendChild(document.createElement("div"));
        const key = svg("svg", { viewBox: "0 0 24 8", class: "key" }, row);
        const line = { x1: 0, x2: 24, y1: 4, y2: 4, stroke: colour, "stroke-width": 3 };
        svg("line", series.dashed ? { ...line, "stroke-dasharray": "5 4" } : line, key);
        const spread = series.std ? ` ± ${short(series.std[i])}` : "";
        html("span", `${series.label} ${short(series.mean[i])}${spread}`, row);
      }
    }
    root.addEventListener("pointermove", (event) => {
      const area = root.getBoundingClientRect();
      const at = ((event.clientX - area.left) / area.width) * WIDTH;
      const distance = (epoch) => Math.abs(x(epoch) - at);
      show(epochs.reduce((best, epoch, i) => (distance(epoch) < distance(epochs[best]) ? i : best), 0));
    });
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      show(now + step);
    });
    show(now);
  }
}
