// The vehicles on a plain Mercator projection with a grid of latitudes and longitudes; it has no other map data.

const SVG = "http://www.w3.org/2000/svg";
const STEPS = [45, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const GRID_PIXELS = 110; // at least, between two lines
const HIT_PIXELS = 16;
const LATITUDE_MAX = 85;
const SCALE_MAX = 5e7; // pixels for 360 degrees

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const toX = (lon) => lon / 360 + 0.5;
const toY = (lat) => 0.5 - Math.asinh(Math.tan((clamp(lat, -LATITUDE_MAX, LATITUDE_MAX) * Math.PI) / 180)) / (2 * Math.PI);
const toLon = (x) => (x - 0.5) * 360;
const toLat = (y) => (Math.atan(Math.sinh((0.5 - y) * 2 * Math.PI)) * 180) / Math.PI;

export class Chart {
  // `classes` are the names of the kinds of points, each a class of the style sheet.
  constructor(svg, classes, { onSelect, onMove }) {
    Object.assign(this, { svg, onSelect, onMove, points: [], selected: null, view: { x: 0.5, y: 0.4, scale: 1000 } });
    const dots = svg.querySelector(".dots");
    this.paths = new Map([...classes, "offline"].map((name) => [name, dots.appendChild(element("path", name))]));
    this.grid = svg.querySelector(".grid");
    this.marker = svg.querySelector(".selected");
    new ResizeObserver(() => this.draw()).observe(svg);
    this.listen();
  }

  // Shows points: objects with id, lat, lon, kind and isOffline.
  show(points) {
    this.points = points.map((point) => ({ ...point, x: toX(point.lon), y: toY(point.lat) }));
    this.draw();
  }

  select(id) {
    this.selected = id;
    this.draw();
  }

  // Moves the view to a position; zooms in if little can be told apart.
  moveTo({ lat, lon }) {
    const scale = Math.max(this.view.scale, 200_000);
    this.move({ x: toX(lon), y: toY(lat), scale });
  }

  fit() {
    if (!this.points.length) return;
    const [xs, ys] = ["x", "y"].map((axis) => this.points.map((point) => point[axis]).sort((a, b) => a - b));
    const [west, east, north, south] = [xs[0], xs.at(-1), ys[0], ys.at(-1)];
    const { width, height } = this.size();
    const scale = 0.88 * Math.min(width / (east - west || 1e-5), height / (south - north || 1e-5));
    this.move({ x: (west + east) / 2, y: (north + south) / 2, scale });
  }

  // The view as a filter of positions.
  box() {
    const { width, height } = this.size();
    const { x, y, scale } = this.view;
    return {
      south: toLat(clamp(y + height / 2 / scale, 0, 1)),
      west: toLon(clamp(x - width / 2 / scale, 0, 1)),
      north: toLat(clamp(y - height / 2 / scale, 0, 1)),
      east: toLon(clamp(x + width / 2 / scale, 0, 1)),
    };
  }

  size() {
    const { width, height } = this.svg.getBoundingClientRect();
    return { width: width || 1, height: height || 1 };
  }

  move({ x, y, scale }) {
    this.view = { x: clamp(x, 0, 1), y: clamp(y, 0, 1), scale: clamp(scale, 300, SCALE_MAX) };
    this.draw();
    this.onMove();
  }

  pan(right, down) {
    const { x, y, scale } = this.view;
    this.move({ x: x + right / scale, y: y + down / scale, scale });
  }

  // Zooms; what is at `at`, in pixels from the center, stays there.
  zoom(factor, at = { x: 0, y: 0 }) {
    const { x, y, scale } = this.view;
    const wanted = clamp(scale * factor, 300, SCALE_MAX);
    const shift = 1 / scale - 1 / wanted;
    this.move({ x: x + at.x * shift, y: y + at.y * shift, scale: wanted });
  }

  onScreen({ x, y }) {
    const { width, height } = this.size();
    return [(x - this.view.x) * this.view.scale + width / 2, (y - this.view.y) * this.view.scale + height / 2];
  }

  draw() {
    const { width, height } = this.size();
    const { x: centerX, y: centerY, scale } = this.view;
    const lines = new Map([...this.paths.keys()].map((name) => [name, []]));
    this.marker.classList.remove("shown");
    for (const { id, x, y, kind, isOffline } of this.points) {
      const left = (x - centerX) * scale + width / 2;
      const top = (y - centerY) * scale + height / 2;
      if (left < -9 || top < -9 || left > width + 9 || top > height + 9) continue;
      // A line of no length is a dot: its ends are round or square.
      const dot = `M${left.toFixed(1)} ${top.toFixed(1)}h0`;
      lines.get(kind).push(dot);
      if (isOffline) lines.get("offline").push(dot);
      if (id === this.selected) {
        this.marker.classList.add("shown");
        this.marker.setAttribute("cx", left);
        this.marker.setAttribute("cy", top);
      }
    }
    for (const [name, path] of this.paths) path.setAttribute("d", lines.get(name).join(""));
    this.drawGrid(width, height);
  }

  drawGrid(width, height) {
    const step = STEPS.findLast((each) => (each / 360) * this.view.scale >= GRID_PIXELS) ?? STEPS[0];
    const { south, west, north, east } = this.box();
    const shapes = [];
    for (let n = Math.ceil(west / step); n * step <= east; n++) {
      const [left] = this.onScreen({ x: toX(n * step), y: 0 });
      shapes.push(line(left, 0, left, height), text(left + 4, height - 6, degrees(n * step, "E", "W", step)));
    }
    for (let n = Math.ceil(south / step); n * step <= north; n++) {
      const [, top] = this.onScreen({ x: 0, y: toY(n * step) });
      shapes.push(line(0, top, width, top), text(6, top - 4, degrees(n * step, "N", "S", step)));
    }
    this.grid.replaceChildren(...shapes);
  }

  // The point nearest to a place on the screen; undefined if none is near.
  pointAt(left, top) {
    let nearest;
    let least = HIT_PIXELS;
    for (const point of this.points) {
      const [x, y] = this.onScreen(point);
      const distance = Math.hypot(x - left, y - top);
      if (distance < least) [nearest, least] = [point, distance];
    }
    return nearest;
  }

  listen() {
    const { svg } = this;
    const fingers = new Map(); // where each pointer is
    let wasMoved = false;
    const place = (event) => {
      const { left, top } = svg.getBoundingClientRect();
      return { x: event.clientX - left, y: event.clientY - top };
    };
    const fromCenter = ({ x, y }) => ({ x: x - this.size().width / 2, y: y - this.size().height / 2 });
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      wasMoved = fingers.size > 0;
      fingers.set(event.pointerId, place(event));
    });
    svg.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const now = place(event);
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      if (!wasMoved && Math.hypot(now.x - before.x, now.y - before.y) < 4) return;
      wasMoved = true;
      fingers.set(event.pointerId, now);
      if (!other) return this.pan(before.x - now.x, before.y - now.y);
      const distance = (from) => Math.hypot(from.x - other.x, from.y - other.y) || 1;
      this.zoom(distance(now) / distance(before), fromCenter(other));
    });
    svg.addEventListener("pointerup", (event) => {
      fingers.delete(event.pointerId);
      if (wasMoved) return;
      const { x, y } = place(event);
      const point = this.pointAt(x, y);
      if (point) this.onSelect(point.id);
    });
    svg.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
    svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), fromCenter(place(event)));
    }, { passive: false });
    svg.addEventListener("keydown", (event) => {
      const { width, height } = this.size();
      const act = {
        ArrowLeft: () => this.pan(-width / 5, 0),
        ArrowRight: () => this.pan(width / 5, 0),
        ArrowUp: () => this.pan(0, -height / 5),
        ArrowDown: () => this.pan(0, height / 5),
        "+": () => this.zoom(1.6),
        "=": () => this.zoom(1.6),
        "-": () => this.zoom(1 / 1.6),
        0: () => this.fit(),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
  }
}

function element(name, className, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  if (className) made.setAttribute("class", className);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const line = (x1, y1, x2, y2) => element("line", "", { x1, y1, x2, y2 });

function text(x, y, content) {
  const made = element("text", "", { x, y });
  made.textContent = content;
  return made;
}

function degrees(value, positive, negative, step) {
  const digits = Math.max(0, Math.ceil(-Math.log10(step)));
  return `${Math.abs(value).toFixed(digits)}° ${value < 0 ? negative : positive}`;
}
