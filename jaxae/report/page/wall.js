// The interactive latent space: the decoded image or series at the pointer, interpolated between those decoded
// beforehand.
async function wall(data, colours) {
  const [height, width] = data.size, size = height * width;
  const byId = (id) => document.getElementById(id);
  const board = byId("wall"), context = board.getContext("2d");
  const sum = new Float32Array(3 * size);
  let place = [0.5, 0.5], chosen = -1;  // of the plane's width and height, from its lowest corner; number of a code

  // The pixels of a sheet.
  async function open(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pencil = canvas.getContext("2d", { willReadFrequently: true });
    pencil.drawImage(image, 0, 0);
    return { canvas, pixels: pencil.getImageData(0, 0, canvas.width, canvas.height).data };
  }

  const corner = (number) => [(number % data.columns) * width, Math.floor(number / data.columns) * height];

  // Adds a picture of a sheet, times a weight, to `sum`; zero: the pixel that stands for 0.
  function add(sheet, number, weight, zero, scale) {
    const [left, top] = corner(number);
    for (let row = 0, to = 0; row < height; row++) {
      let from = 4 * ((top + row) * sheet.canvas.width + left);
      for (let column = 0; column < width; column++, from += 4) {
        for (let channel = 0; channel < 3; channel++) {
          sum[to++] += weight * scale * (sheet.pixels[from + channel] - zero);
        }
      }
    }
  }

  // Bilinear interpolation between the four places of an n x n grid around `place`.
  function plane(sheet, n, first, weight, zero = 0, scale = 1) {
    const [u, v] = place.map((part) => part * (n - 1));
    const [i, j] = [u, v].map((part) => Math.min(Math.floor(part), n - 2));
    for (const [k, a] of [[i, 1 - u + i], [i + 1, u - i]]) {
      for (const [l, b] of [[j, 1 - v + j], [j + 1, v - j]]) {
        if (a * b > 0) add(sheet, first + l * n + k, weight * a * b, zero, scale);
      }
    }
  }

  const stops = [...data.offsets, 0].sort((a, b) => a - b);
  // A slider's change, linear between its stops; there is none at 0.
  function slide(slider) {
    const value = Number(slider.input.value);
    if (value === 0) return;
    const right = Math.max(1, stops.findIndex((stop) => stop >= value));
    const part = (value - stops[right - 1]) / (stops[right] - stops[right - 1]);
    for (const [stop, weight] of [[stops[right - 1], 1 - part], [stops[right], part]]) {
      const first = data.offsets.indexOf(stop) * data.coarse ** 2;
      if (stop !== 0 && weight > 0) plane(slider.sheet, data.coarse, first, weight, 128, 255 / 127);
    }
  }

  // Curves of a series whose picture has a row for each dimension; pink pixels were not measured.
  function plot(pencil, values, [left, top, across, down], count) {
    const x = (step) => left + (across * step) / width, y = (value) => top + down * (0.95 - (0.9 * value) / 255);
    const absent = (at) => values[at] - values[at + 1] > 60;
    for (let row = 0; row < height; row++) {
      pencil.beginPath();
      for (let step = 0, up = true; step < count; step++) {
        const at = 3 * (row * width + step);
        if (absent(at)) {
          pencil.fillStyle = "#ff2d9b44";
          pencil.fillRect(x(step), top, across / width, down);
        } else pencil[up ? "moveTo" : "lineTo"](x(step + 0.5), y(values[at]));
        up = absent(at);
      }
      pencil.strokeStyle = colours[row % colours.length];
      pencil.stroke();
    }
  }

  function put(canvas, values, count = width) {
    const pencil = canvas.getContext("2d");
    if (data.steps) {
      pencil.fillStyle = "#fff";
      pencil.fillRect(0, 0, canvas.width, canvas.height);
      pencil.lineWidth = 3;
      return plot(pencil, values, [0, 0, canvas.width, canvas.height], count);
    }
    const image = pencil.createImageData(width, height);
    for (let pixel = 0; pixel < size; pixel++) {
      for (let channel = 0; channel < 3; channel++) image.data[4 * pixel + channel] = Math.round(values[3 * pixel + channel]);
      image.data[4 * pixel + 3] = 255;
    }
    pencil.putImageData(image, 0, 0);
  }

  const value = (axis) => data.low[axis] + place[axis] * (data.high[axis] - data.low[axis]);

  function paint() {
    sum.fill(0);
    plane(grid, data.n, 0, 1);
    sliders.forEach(slide);
    put(byId("painted"), sum);
    const text = data.labels.map((label, axis) => `${label.split(" (")[0]} = ${value(axis).toFixed(3)}`).join(", ");
    byId("place").textContent = text;
    draw();
  }

  // The position of a code, as fractions of the plane.
  const part = (number) => ["x", "y"].map((name, axis) => (data.codes[name][number] - data.low[axis]) / (data.high[axis] - data.low[axis]));

  function draw() {
    const side = board.width, dot = Math.max(2, side / 260);
    context.drawImage(backdrop, 0, 0);
    const ring = ([u, v], radius, colour) => {
      context.beginPath();
      context.arc(u * side, (1 - v) * side, radius, 0, 7);
      context.lineWidth = side / 300;
      context.strokeStyle = colour;
      context.stroke();
    };
    if (chosen >= 0) ring(part(chosen), 3 * dot, "#ffd84d");
    ring(place, 4 * dot, "#fff");
  }

  // Pictures of the grid, dimmed, and the codes over them: drawn once per size.
  const backdrop = document.createElement("canvas");
  function hang() {
    const side = Math.max(200, Math.round(board.clientWidth * Math.min(devicePixelRatio, 2)));
    board.width = board.height = backdrop.width = backdrop.height = side;
    const pencil = backdrop.getContext("2d");
    pencil.fillStyle = "#10141b";
    pencil.fillRect(0, 0, side, side);
    pencil.globalAlpha = 0.4;
    const step = Math.max(1, Math.round(data.n / 16)), across = Math.floor((data.n - 1) / step) + 1, cell = side / across;
    for (let row = 0; row < across; row++) {
      for (let column = 0; column < across; column++) {
        const number = Math.round(((data.n - 1) * (row + 0.5)) / across) * data.n + Math.round(((data.n - 1) * (column + 0.5)) / across);
        const at = [column * cell, side - (row + 1) * cell, cell, cell];
        if (data.steps) {
          sum.fill(0);
          add(grid, number, 1, 0, 1);
          plot(pencil, sum, at, width);
        } else pencil.drawImage(grid.canvas, ...corner(number), width, height, ...at);
      }
    }
    pencil.globalAlpha = 1;
    data.codes.x.forEach((_, number) => {
      const [u, v] = part(number);
      pencil.beginPath();
      pencil.arc(u * side, (1 - v) * side, Math.max(2, side / 260), 0, 7);
      pencil.fillStyle = data.codes.class[number] < 0 ? "#fff" : colours[data.codes.class[number] % colours.length];
      pencil.fill();
      pencil.strokeStyle = "#10141b";
      pencil.stroke();
    });
    draw();
  }

  // The nearest code, if it is within `reach` (a fraction of the plane): its original beside its reconstruction.
  function choose(reach) {
    let best = reach ** 2;
    chosen = -1;
    data.codes.x.forEach((_, number) => {
      const [u, v] = part(number), distance = (u - place[0]) ** 2 + (v - place[1]) ** 2;
      if (distance < best) [best, chosen] = [distance, number];
    });
    byId("pair").hidden = chosen < 0;
    draw();
    if (chosen < 0) return;
    for (const [name, sheet] of [["original", originals], ["decoded", decoded]]) {
      sum.fill(0);
      add(sheet, chosen, 1, 0, 1);
      put(byId(name), sum, data.codes.lengths ? Math.ceil((data.codes.lengths[chosen] * width) / data.steps) : width);
    }
    const kind = data.classes[data.codes.class[chosen]];
    byId("chosen").textContent = `test example ${data.codes.numbers[chosen]}${kind === undefined ? "" : `, class ${kind}`}`;
  }

  function move(to) {
    place = to.map((part) => Math.max(0, Math.min(1, part)));
    paint();
  }

  function point(event) {
    const area = board.getBoundingClientRect();
    move([(event.clientX - area.left) / area.width, 1 - (event.clientY - area.top) / area.height]);
  }

  const [grid, originals, decoded] = await Promise.all([data.grid, data.codes.originals, data.codes.decoded].map(open));
  const sliders = await Promise.all(data.sliders.map(async ({ label, sheet }, number) => {
    const row = byId(number < 8 ? "sliders" : "more").appendChild(document.createElement("div"));
    row.className = "slider";
    const name = row.appendChild(document.createElement("label")), input = row.appendChild(document.createElement("input"));
    const output = row.appendChild(document.createElement("output"));
    Object.assign(input, { type: "range", min: stops[0], max: stops[stops.length - 1], step: 0.05, value: 0, id: `slider${number}` });
    name.htmlFor = input.id;
    name.textContent = label;
    output.textContent = "0";
    input.addEventListener("input", () => {
      output.textContent = input.value;
      paint();
    });
    return { input, sheet: await open(sheet) };
  }));

  data.classes.slice(0, 100).forEach((name, number) => {
    const item = byId("legend").appendChild(document.createElement("span"));
    const chip = item.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    chip.setAttribute("viewBox", "0 0 2 2");
    const disc = chip.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "circle"));
    for (const [key, text] of Object.entries({ cx: 1, cy: 1, r: 1, fill: colours[number % colours.length] })) disc.setAttribute(key, text);
    item.append(name);
  });
  const ends = (axis) => `${data.labels[axis]} from ${data.low[axis].toFixed(2)} to ${data.high[axis].toFixed(2)}`;
  byId("range").textContent = `Left to right ${ends(0)}, bottom to top ${ends(1)}.`;

  board.addEventListener("pointermove", point);
  board.addEventListener("pointerdown", (event) => {
    point(event);
    choose(event.pointerType === "mouse" ? 0.02 : 0.05);
  });
  board.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.01;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowDown: [0, -step], ArrowUp: [0, step] }[event.key];
    if (way) move([place[0] + way[0], place[1] + way[1]]);
    else if (event.key === "Enter" || event.key === " ") choose(2);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(hang).observe(board);
  hang();
  paint();
  board.dataset.ready = "yes";
}
