// The report's page, interactive: plots, slices, map of thickness, table of objects. No library, no network.
// What needs no page stands first, and is what the tests run under node.
(() => {
  "use strict";

  // Scales, ticks, numbers ---------------------------------------------------------------------------------------------

  const THIN_SPACE = "\u202f";
  const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  const superscript = (whole) =>
    String(whole).replace("-", "⁻").replace(/\d/g, (digit) => SUPERSCRIPTS[Number(digit)]);

  const grouped = (text) => {
    const [whole, part] = text.split(".");
    const set = whole.replace(/\B(?=(\d{3})+$)/g, THIN_SPACE).replace("-", "−");
    return part === undefined ? set : `${set}.${part}`;
  };

  /** A number for a person: `digits` significant ones, no trailing zeros, a power of ten where it is large or small. */
  function formatNumber(value, digits = 4) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) {
      if (Number.isInteger(value) && size < 1e9) return grouped(String(value));
      const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
      return `${grouped(String(Number(mantissa)))} × 10${superscript(Number(exponent))}`;
    }
    if (Number.isInteger(value)) return grouped(String(value));
    return grouped(String(Number(value.toPrecision(digits))));
  }

  /** Decimals with which a column of numbers shows `digits` significant ones of its largest; null: use powers of ten. */
  function columnDecimals(values, digits = 4) {
    if (values.every(Number.isInteger)) return 0;
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    if (largest < 1e-2 || largest >= 1e9) return null;
    return Math.max(0, digits - 1 - Math.floor(Math.log10(largest)));
  }

  const formatFixed = (value, decimals) =>
    decimals === null ? formatNumber(value) : grouped(value.toFixed(decimals).replace(/^-(0\.?0*)$/, "$1"));

  /** Round numbers from `low` to `high`, about `count` of them. */
  function linearTicks(low, high, count) {
    if (!(high > low)) return [low];
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= raw * (1 - 1e-9)) * power;
    const ticks = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) {
      ticks.push(Number((index * step).toPrecision(12)));
    }
    return ticks;
  }

  /** Powers of ten from `low` to `high`, with 2 and 5 between them where there are few. */
  function logTicks(low, high, count) {
    const first = Math.floor(Math.log10(low) + 1e-9);
    const last = Math.ceil(Math.log10(high) - 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / Math.max(1, count)));
    const factors = (last - first) * 3 <= count + 3 ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = first; power <= last; power += every) {
      for (const factor of factors) {
        const tick = Number((factor * 10 ** power).toPrecision(6));
        if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
      }
    }
    return ticks.length > 1 ? ticks : linearTicks(low, high, count).filter((tick) => tick > 0);
  }

  /** From values in [low, high] to pixels in [from, to], and back. */
  function scaleOf(low, high, from, to, log) {
    const turn = log ? Math.log10 : (value) => value;
    const back = log ? (value) => 10 ** value : (value) => value;
    const [start, stop] = [turn(low), turn(high)];
    const span = stop - start || 1;
    const place = (value) => from + ((turn(value) - start) / span) * (to - from);
    place.invert = (pixel) => back(start + ((pixel - from) / (to - from)) * span);
    return place;
  }

  const isSteps = (view) => view.series.some((series) => series.kind === "steps");
  const drawnSeries = (view) => view.series.filter((series) => series.kind !== "hidden");

  /** Least and greatest value on an axis of a view. */
  function domainOf(view, axis, log) {
    let values = view.x;
    if (axis === "y") {
      values = drawnSeries(view).flatMap((series) =>
        series.values.flatMap((value, index) =>
          series.spread.length ? [value - series.spread[index], value + series.spread[index]] : [value]));
    }
    if (log) values = values.filter((value) => value > 0);
    let low = values.reduce((least, value) => Math.min(least, value), Infinity);
    let high = values.reduce((most, value) => Math.max(most, value), -Infinity);
    if (!Number.isFinite(low)) return log ? [1, 10] : [0, 1];
    if (axis === "x") return high > low ? [low, high] : log ? [low / 2, low * 2] : [low - 0.5, high + 0.5];
    if (log) return [isSteps(view) ? low / 2 : low / 1.1, high > low ? high * 1.2 : high * 2];
    if (view.y.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
    const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    // A band may reach below 0 where no value does: then the axis ends there.
    const positive = drawnSeries(view).every((series) => series.values.every((value) => value >= 0));
    return [positive ? Math.max(0, view.y.zero ? 0 : low - margin) : low - margin, high + margin];
  }

  /** Whether an axis of a view can be logarithmic. */
  function canLog(view, axis) {
    if (axis === "x") return view.x.every((value) => value > 0) && view.x.length > 1;
    const values = drawnSeries(view).flatMap((series) => series.values);
    return values.some((value) => value > 0) && values.every((value) => value >= 0);
  }

  /** Index of the bin that holds x, or of the point nearest to it. */
  function indexAt(view, x, log) {
    const turn = log ? Math.log10 : (value) => value;
    if (isSteps(view)) {
      const after = view.x.findIndex((edge) => edge > x);
      return Math.min(Math.max((after < 0 ? view.x.length : after) - 1, 0), view.x.length - 2);
    }
    let nearest = 0;
    view.x.forEach((value, index) => {
      if (Math.abs(turn(value) - turn(x)) < Math.abs(turn(view.x[nearest]) - turn(x))) nearest = index;
    });
    return nearest;
  }

  // Tables -------------------------------------------------------------------------------------------------------------

  const csvField = (value) => {
    const text = String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const csv = (lines) => lines.map((line) => line.map(csvField).join(",")).join("\r\n") + "\r\n";

  const withUnit = (label, unit) => (unit ? `${label} / ${unit}` : label);

  /** A view of a chart as lines of a table, the header first. */
  function viewLines(chart, view) {
    const x = withUnit(chart.x.label, chart.x.unit);
    const steps = isSteps(view);
    const columns = view.series.flatMap((series) => {
      const name = series.kind === "hidden" ? series.name : withUnit(series.name, view.y.unit);
      const spread = [[withUnit("standard deviation", view.y.unit), series.spread]];
      return [[name, series.values], ...(series.spread.length ? spread : [])];
    });
    const header = [...(steps ? [`${x}, from`, `${x}, to`] : [x]), ...columns.map(([name]) => name)];
    const count = steps ? view.x.length - 1 : view.x.length;
    const lines = Array.from({ length: count }, (_, index) => [
      ...(steps ? [view.x[index], view.x[index + 1]] : [view.x[index]]),
      ...columns.map(([, values]) => values[index]),
    ]);
    return [header, ...lines];
  }

  /** Rows within all ranges ({column: [low, high]}, null where open), by a column, stable. */
  function selectRows(rows, ranges, column, descending) {
    const wanted = Object.entries(ranges);
    const within = rows.filter((row) => wanted.every(([index, [low, high]]) =>
      (low === null || row[index] >= low) && (high === null || row[index] <= high)));
    const sign = descending ? -1 : 1;
    return within.sort((a, b) => sign * (a[column] - b[column]));
  }

  /** A number that a person typed: decimal comma, true minus, spaces; null for nothing, NaN for what is no number. */
  function parseTyped(text) {
    const plain = text.replace(/[\s\u202f]/g, "").replace(",", ".").replace("−", "-");
    return plain === "" ? null : Number(plain);
  }

  if (typeof document === "undefined") {
    module.exports = {
      canLog, columnDecimals, csv, domainOf, formatFixed, formatNumber, indexAt, linearTicks, logTicks, parseTyped,
      scaleOf, selectRows, superscript, viewLines,
    };
    return;
  }

  // The page -----------------------------------------------------------------------------------------------------------

  const data = JSON.parse(document.getElementById("data").textContent);

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function drawing(tag, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  /** Buttons of which one is pressed. */
  function choice(label, names, chosen, choose) {
    const buttons = names.map((name, index) =>
      element("button", { type: "button", "aria-pressed": String(index === chosen), onclick: () => {
        buttons.forEach((other, place) => other.setAttribute("aria-pressed", String(place === index)));
        choose(index);
      } }, name));
    return element("span", { class: "choice", role: "group", "aria-label": label }, ...buttons);
  }

  function save(name, address) {
    element("a", { href: address, download: name }).click();
  }

  const textAddress = (kind, text) => `data:${kind};charset=utf-8,${encodeURIComponent(text)}`;
  const fileName = (name) => `${data.scan}_${name}`.replace(/[^\w.-]+/g, "_");

  const pen = document.createElement("canvas").getContext("2d");
  const lengthOf = (text) => {
    pen.font = `11.5px ${getComputedStyle(document.body).fontFamily}`;
    return pen.measureText(text).width;
  };

  // Plots --------------------------------------------------------------------------------------------------------------

  const HEIGHT = 280;
  const MARGIN = { top: 30, right: 14, bottom: 42 };
  const colorOf = (name) => `var(--${name})`;

  function plot(figure, chart) {
    const state = { view: 0, log: { x: chart.x.log, y: false }, index: null };
    const box = element("div", { class: "plot" });
    const readout = element("div", { class: "readout", role: "status", hidden: "" });
    let picture = null;
    let frame = null;

    const view = () => chart.views[state.view];
    const log = (axis) => state.log[axis] && canLog(view(), axis);
    const toggles = ["x", "y"].map((axis) =>
      element("button", { type: "button", "aria-pressed": String(state.log[axis]), onclick: (event) => {
        state.log[axis] = !state.log[axis];
        event.currentTarget.setAttribute("aria-pressed", String(state.log[axis]));
        draw();
      } }, `log ${axis}`));

    function chooser() {
      const names = chart.views.map((one) => one.label);
      const choose = (index) => { state.view = index; state.index = null; draw(); };
      if (names.length < 2) return [];
      if (names.length <= 3) return [choice("What is shown", names, 0, choose)];
      const options = names.map((name, index) => element("option", { value: index }, name));
      return [element("select", { "aria-label": "What is shown", onchange: (event) => choose(Number(event.target.value)) }, ...options)];
    }

    function draw() {
      const width = Math.max(box.clientWidth, 260);
      toggles.forEach((button, index) => { button.hidden = !canLog(view(), "xy"[index]) || (index === 0 && !chart.x.log); });
      const [xLow, xHigh] = domainOf(view(), "x", log("x"));
      const [yLow, yHigh] = domainOf(view(), "y", log("y"));
      const yTicks = (log("y") ? logTicks : linearTicks)(yLow, yHigh, 5);
      const left = Math.ceil(Math.max(...yTicks.map((tick) => lengthOf(formatNumber(tick))))) + 12;
      const x = scaleOf(xLow, xHigh, left, width - MARGIN.right, log("x"));
      const y = scaleOf(yLow, yHigh, HEIGHT - MARGIN.bottom, MARGIN.top, log("y"));
      frame = { x, y, left, width, yLow, yHigh };
      picture?.remove();
      picture = drawing("svg", {
        viewBox: `0 0 ${width} ${HEIGHT}`, tabindex: 0, role: "application", "aria-roledescription": "plot",
        "aria-label": `${chart.title}: ${view().y.label} against ${chart.x.label}. Arrow keys read out the values.`,
      });
      drawAxes(yTicks);
      drawMarks();
      drawnSeries(view()).forEach(drawSeries);
      drawLegend();
      picture.append(drawing("g", { class: "cross" }));
      for (const [event, handler] of Object.entries({ pointermove, pointerleave: hide, pointerdown: pointermove, keydown, blur: hide })) {
        picture.addEventListener(event, handler);
      }
      box.prepend(picture);
      if (state.index !== null) show(state.index);
    }

    function text(content, attributes) {
      picture.append(drawing("text", attributes, content));
    }

    function drawAxes(yTicks) {
      const { x, y, left, width } = frame;
      const bottom = HEIGHT - MARGIN.bottom;
      for (const tick of yTicks) {
        picture.append(drawing("line", { class: "grid", x1: left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
        text(formatNumber(tick), { x: left - 8, y: y(tick) + 4, "text-anchor": "end" });
      }
      const [low, high] = domainOf(view(), "x", log("x"));
      const ticks = (log("x") ? logTicks : linearTicks)(low, high, Math.max(3, Math.floor(width / 80)))
        .filter((tick) => !chart.x.whole || Number.isInteger(tick));
      for (const tick of ticks) {
        const place = x(tick);
        picture.append(drawing("line", { class: "axis", x1: place, x2: place, y1: bottom, y2: bottom + 4 }));
        text(formatNumber(tick), { x: place, y: bottom + 17, "text-anchor": "middle" });
      }
      picture.append(drawing("line", { class: "axis", x1: left, x2: width - MARGIN.right, y1: bottom, y2: bottom }));
      text(withUnit(chart.x.label, chart.x.unit),
        { class: "label", x: (left + width - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" });
      text(withUnit(view().y.label, view().y.unit), { class: "label", x: 0, y: 13 });
    }

    const clamp = (value) => frame.y(Math.min(Math.max(value, frame.yLow), frame.yHigh)).toFixed(2);

    function drawSeries(series) {
      const points = view().x.map((value) => frame.x(value).toFixed(2));
      const color = colorOf(series.color);
      if (series.kind === "steps") {
        const top = series.values.map((value, index) => `V${clamp(value)}H${points[index + 1]}`).join("");
        const path = `M${points[0]},${clamp(Math.max(frame.yLow, 0))}${top}V${clamp(Math.max(frame.yLow, 0))}`;
        picture.append(drawing("path", { d: `${path}Z`, fill: color, "fill-opacity": view().series.length > 1 ? 0.4 : 0.28 }));
        picture.append(drawing("path", { class: "curve", d: path, stroke: color }));
        return;
      }
      if (series.spread.length) {
        const edge = (sign) => series.values.map((value, index) => `${points[index]},${clamp(value + sign * series.spread[index])}`);
        picture.append(drawing("path", { d: `M${[...edge(1), ...edge(-1).reverse()].join("L")}Z`, fill: color, "fill-opacity": 0.16 }));
      }
      const path = series.values.map((value, index) => `${points[index]},${clamp(value)}`).join("L");
      const dashed = series.kind === "dashed" ? { "stroke-dasharray": "5 4" } : {};
      picture.append(drawing("path", { class: "curve", d: `M${path}`, stroke: color, ...dashed }));
      if (points.length <= 40 && series.kind === "line") {
        series.values.forEach((value, index) =>
          picture.append(drawing("circle", { cx: points[index], cy: clamp(value), r: 2.6, fill: color })));
      }
    }

    function drawMarks() {
      const { x, left, width } = frame;
      const [low, high] = domainOf(view(), "x", log("x"));
      const rows = [];
      const inside = chart.marks.filter((mark) => mark.value >= low && mark.value <= high);
      for (const mark of inside.sort((a, b) => a.value - b.value)) {
        const place = x(mark.value);
        const length = lengthOf(mark.label);
        const leftwards = place + 6 + length > width - MARGIN.right && place - 6 - length > left;
        const start = leftwards ? place - 6 - length : place + 6;
        let row = rows.findIndex((end) => end + 10 < start);
        if (row < 0) row = rows.length;
        rows[row] = start + length;
        picture.append(drawing("line", {
          class: "mark", stroke: colorOf(mark.color), x1: place, x2: place, y1: MARGIN.top - 6, y2: HEIGHT - MARGIN.bottom,
        }));
        text(mark.label, { x: start, y: MARGIN.top + 4 + 14 * row });
      }
    }

    function drawLegend() {
      const shown = drawnSeries(view());
      if (shown.length < 2) return;
      let end = frame.width - MARGIN.right;
      for (const series of [...shown].reverse()) {
        const length = lengthOf(series.name);
        text(series.name, { x: end - length, y: 13 });
        picture.append(drawing("rect", { x: end - length - 14, y: 4, width: 9, height: 9, rx: 2, fill: colorOf(series.color) }));
        end -= length + 30;
      }
    }

    function pointermove(event) {
      const bounds = picture.getBoundingClientRect();
      const place = ((event.clientX - bounds.left) / bounds.width) * frame.width;
      show(indexAt(view(), frame.x.invert(Math.max(place, frame.left)), log("x")));
    }

    function keydown(event) {
      const count = isSteps(view()) ? view().x.length - 1 : view().x.length;
      const from = state.index ?? -1;
      const moves = {
        ArrowRight: from + 1, ArrowLeft: from < 0 ? count - 1 : from - 1, PageDown: from + Math.ceil(count / 10),
        PageUp: from - Math.ceil(count / 10), Home: 0, End: count - 1,
      };
      if (event.key === "Escape") hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(Math.min(Math.max(moves[event.key], 0), count - 1));
    }

    function hide() {
      state.index = null;
      readout.hidden = true;
      picture.querySelector(".cross").replaceChildren();
    }

    function show(index) {
      state.index = index;
      const steps = isSteps(view());
      const [from, to] = [view().x[index], view().x[index + 1]];
      const place = steps ? (frame.x(from) + frame.x(to)) / 2 : frame.x(from);
      const cross = picture.querySelector(".cross");
      cross.replaceChildren(drawing("line", { x1: place, x2: place, y1: MARGIN.top - 6, y2: HEIGHT - MARGIN.bottom }));
      let position = `${formatNumber(from)}${steps ? ` to ${formatNumber(to)}` : ""}`;
      if (chart.x.whole && steps) position = formatNumber((from + to) / 2);
      const lines = [element("b", {}, `${steps && !chart.x.whole ? "" : `${chart.x.label} `}${position} ${chart.x.unit}`)];
      for (const series of view().series) {
        const value = series.values[index];
        const unit = series.kind === "hidden" ? "" : view().y.unit;
        const spread = series.spread.length ? ` ± ${formatNumber(series.spread[index])}` : "";
        const line = element("div", {}, `${series.name} `, element("b", {}, `${formatNumber(value)}${spread}`), ` ${unit}`);
        if (series.kind !== "hidden") {
          const swatch = element("i");
          swatch.style.background = colorOf(series.color);
          line.prepend(swatch);
          cross.append(drawing("circle", { cx: place, cy: clamp(value), r: 4, fill: colorOf(series.color) }));
        }
        lines.push(line);
      }
      readout.replaceChildren(...lines);
      readout.hidden = false;
      const zoom = box.clientWidth / frame.width;
      const room = box.clientWidth - readout.offsetWidth;
      const right = place * zoom + 14;
      readout.style.left = `${Math.max(0, right > room ? place * zoom - 14 - readout.offsetWidth : right)}px`;
      readout.style.top = `${MARGIN.top + 14}px`;
    }

    /** The picture as text, its styles written into it, in light colours. */
    function standalone() {
      const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "font-family", "font-size"];
      box.classList.add("light");
      const copy = picture.cloneNode(true);
      const originals = [...picture.querySelectorAll("*")];
      [...copy.querySelectorAll("*")].forEach((node, index) => {
        const style = getComputedStyle(originals[index]);
        kept.forEach((name) => node.setAttribute(name, style.getPropertyValue(name)));
        node.removeAttribute("class");
      });
      const paper = getComputedStyle(box).getPropertyValue("--paper");
      box.classList.remove("light");
      ["tabindex", "role", "aria-roledescription"].forEach((name) => copy.removeAttribute(name));
      copy.querySelector(":scope > g:last-child").remove();
      copy.prepend(drawing("rect", { width: frame.width, height: HEIGHT, fill: paper }));
      copy.setAttribute("width", frame.width);
      copy.setAttribute("height", HEIGHT);
      return new XMLSerializer().serializeToString(copy);
    }

    function savePng() {
      const image = new Image();
      image.addEventListener("load", () => {
        const canvas = element("canvas", { width: 2 * frame.width, height: 2 * HEIGHT });
        canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
        save(fileName(`${chart.name}.png`), canvas.toDataURL("image/png"));
      });
      image.src = textAddress("image/svg+xml", standalone());
    }

    const files = [
      ["PNG", savePng],
      ["SVG", () => save(fileName(`${chart.name}.svg`), textAddress("image/svg+xml", standalone()))],
      ["CSV", () => save(fileName(`${chart.name}.csv`), textAddress("text/csv", csv(viewLines(chart, view()))))],
    ].map(([name, onclick]) => element("button", { type: "button", class: "plain", title: `Save as ${name}`, "aria-label": `Save ${chart.title} as ${name}`, onclick }, name));
    box.append(readout);
    figure.append(
      element("div", { class: "controls" }, ...chooser(), ...toggles, element("span", { class: "end" }, ...files)), box);
    new ResizeObserver(draw).observe(box);
    draw();
  }

  // Slices -------------------------------------------------------------------------------------------------------------

  function slices(viewer) {
    const layers = [...viewer.querySelectorAll(".layer")];
    const named = (kind) => layers.filter((layer) => layer.dataset.kind === kind);
    const [greys, labels] = [named("grey"), named("labels")];
    if (!greys.length) return;
    const state = { grey: 0, label: labels.length, opacity: 0.55 };
    const pictures = []; // of {layer, image}
    for (const figure of greys[0].querySelectorAll("figure")) {
      const frame = figure.querySelector(".frame");
      figure.querySelector("figcaption").textContent = `${figure.dataset.plane} plane through the centre`;
      for (const layer of layers) {
        const image = layer.querySelector(`figure[data-plane="${figure.dataset.plane}"] img`);
        image.classList.toggle("over", layer.dataset.kind === "labels");
        frame.insertBefore(image, frame.querySelector(".scale"));
        pictures.push({ layer, image });
      }
      const enlarge = element("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: () => {
        const large = figure.classList.toggle("large");
        enlarge.setAttribute("aria-pressed", String(large));
        enlarge.textContent = large ? "smaller" : "larger";
      } }, "larger");
      figure.querySelector("figcaption").append(" ", enlarge);
    }
    [...greys.slice(1), ...labels].forEach((layer) => layer.remove());

    function apply() {
      for (const { layer, image } of pictures) {
        const chosen = layer === greys[state.grey] || layer === labels[state.label - 1];
        image.style.display = chosen ? "" : "none";
        image.style.opacity = layer.dataset.kind === "labels" ? state.opacity : 1;
      }
    }

    const names = (kind) => kind.map((layer) => layer.dataset.layer);
    const controls = element("div", { class: "controls" });
    if (greys.length > 1) controls.append(choice("Grey values", names(greys), 0, (index) => { state.grey = index; apply(); }));
    if (labels.length) {
      const slider = element("input", { type: "range", min: 0, max: 100, value: 100 * state.opacity, oninput: (event) => {
        state.opacity = event.target.value / 100;
        apply();
      } });
      controls.append(
        choice("Overlay", ["No overlay", ...names(labels)], state.label, (index) => { state.label = index; apply(); }),
        element("label", {}, "Overlay opacity", slider));
    }
    viewer.prepend(controls);
    apply();
  }

  // Map of thickness ---------------------------------------------------------------------------------------------------

  function thicknessMap(figure) {
    const image = figure.querySelector("img");
    const readout = element("div", { class: "readout", role: "status", hidden: "" });
    const frame = figure.querySelector(".frame");
    frame.append(readout);
    let pixels = null;

    function look() {
      const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    }

    frame.addEventListener("pointermove", (event) => {
      if (!pixels) look();
      const bounds = frame.getBoundingClientRect();
      const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
      const column = Math.min(Math.floor((x / bounds.width) * pixels.width), pixels.width - 1);
      const row = Math.min(Math.floor((y / bounds.height) * pixels.height), pixels.height - 1);
      const at = 4 * (row * pixels.width + column);
      const color = data.colors.indexOf([...pixels.data.slice(at, at + 3)].reduce((sum, part) => 256 * sum + part, 0));
      readout.hidden = pixels.data[at + 3] === 0 || color < 0;
      if (readout.hidden) return;
      const value = (figure.dataset.high * color) / (data.colors.length - 1);
      readout.replaceChildren(element("b", {}, formatNumber(value, 3)), ` ${figure.dataset.unit}`);
      readout.style.left = `${x + 12 + readout.offsetWidth > bounds.width ? x - 12 - readout.offsetWidth : x + 12}px`;
      readout.style.top = `${Math.max(0, y - 34)}px`;
    });
    frame.addEventListener("pointerleave", () => { readout.hidden = true; });
  }

  // Table of objects ---------------------------------------------------------------------------------------------------

  function objects(host, table) {
    const { columns, rows } = table;
    const flag = columns.findIndex((column) => column.name === "touches_border");
    const volume = Math.max(columns.findIndex((column) => column.name.startsWith("volume")), 0);
    const state = { column: volume, descending: true, ranges: {} };
    const decimals = columns.map((_, index) => columnDecimals(rows.map((row) => row[index])));
    const body = element("tbody");
    const count = element("span", { role: "status" });
    let shown = rows;

    const heads = columns.map((column, index) =>
      element("th", { scope: "col", class: "n" }, element("button", { type: "button", title: column.definition, onclick: () => {
        state.descending = state.column === index ? !state.descending : index !== 0;
        state.column = index;
        fill();
      } }, column.label, element("small", {}, column.unit || "\u00a0"))));

    const inputs = [];
    const limits = columns.map((column, index) => element("th", {}, ...(index === flag ? [] : ["from", "to"].map((end, side) => {
      const input = element("input", {
        type: "text", inputmode: "decimal", placeholder: end, "aria-label": `${column.label} ${end}`, oninput: () => {
          const value = parseTyped(input.value);
          input.setAttribute("aria-invalid", String(Number.isNaN(value)));
          state.ranges[index] ??= [null, null];
          state.ranges[index][side] = Number.isNaN(value) ? null : value;
          fill();
        },
      });
      inputs.push(input);
      return input;
    }))));
    const range = element("tr", { class: "range", hidden: "" }, ...limits);
    const filter = element("button", { type: "button", "aria-pressed": "false", onclick: () => {
      range.hidden = !range.hidden;
      filter.setAttribute("aria-pressed", String(!range.hidden));
    } }, "Filter by range");

    function fill() {
      shown = selectRows(rows, state.ranges, state.column, state.descending);
      heads.forEach((head, index) => {
        if (index === state.column) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      body.replaceChildren(...shown.map((row) => element("tr", { class: row[flag] ? "cut" : null }, ...row.map((value, index) => {
        if (index === flag) return element("td", { class: "n" }, value ? element("span", { class: "tag" }, "cut") : "");
        return element("td", { class: "n" }, formatFixed(value, decimals[index]));
      }))));
      count.textContent = `${formatNumber(shown.length)} of ${formatNumber(rows.length)} shown`;
    }

    const controls = element("div", { class: "controls" });
    if (flag >= 0) {
      const wished = [null, [0, 0], [1, 1]];
      controls.append(choice("Objects", ["All", "Whole", "Cut by the border"], 0, (index) => {
        delete state.ranges[flag];
        if (wished[index]) state.ranges[flag] = wished[index];
        fill();
      }));
    }
    controls.append(
      filter,
      element("button", { type: "button", onclick: () => {
        inputs.forEach((input) => { input.value = ""; input.setAttribute("aria-invalid", "false"); });
        columns.forEach((_, index) => { if (index !== flag) delete state.ranges[index]; });
        fill();
      } }, "Clear"),
      count,
      element("button", { type: "button", class: "plain", onclick: () =>
        save(fileName("objects_shown.csv"), textAddress("text/csv", csv([columns.map((column) => column.name), ...shown]))) },
      "CSV of what is shown"));
    host.replaceChildren(
      controls,
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of objects" },
        element("table", {}, element("thead", {}, element("tr", {}, ...heads), range), body)));
    fill();
  }

  document.querySelectorAll(".chart").forEach((figure) => plot(figure, data.charts[figure.dataset.chart]));
  document.querySelectorAll(".viewer").forEach(slices);
  document.querySelectorAll(".map").forEach(thicknessMap);
  if (data.objects) objects(document.querySelector(".objects"), data.objects);
})();
