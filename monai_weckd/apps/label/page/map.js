// Copyright (c) monai_weckd contributors
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//     http://www.apache.org/licenses/LICENSE-2.0
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// The map: a point for each image, moved and zoomed by d3, drawn as pixels, so that it needs no graphics card.

import "./d3.min.js";

import { byId } from "./server.js";

const { interpolateViridis, polygonContains, quadtree, schemeTableau10, select, zoom, zoomIdentity, rgb } = globalThis.d3;

const EDGE = 24; // pixels of the screen around the whole map
const REACH = 12; // pixels of the screen around the pointer within which a point is meant
const GRAY = "#8a8f96"; // of images without what the color stands for
const SHADES = 10;
const MOST = 9999; // the largest coordinate

const canvas = byId("points");
const pen = canvas.getContext("2d");
let data = { ids: [], x: [], y: [] };
let groups = []; // {name, color, hidden}
let groupOf = []; // of each point
let order = []; // points in the order in which they are drawn
let chosen = null; // a set of points, null: none is chosen
let tree = quadtree();
let view = zoomIdentity;
let wanted = false;
let circled = false; // a click that ends a lasso means no point

// Colors are given to groups, which the legend names; the first one has what is not known.
export function colors({ words, predictable, label, predicted, disagreement }, by) {
  if (by === "disagreement") {
    const shades = Array.from({ length: SHADES }, (_, place) => ({
      name: `${place * 10}–${(place + 1) * 10} %`,
      color: interpolateViridis(place / (SHADES - 1)),
    }));
    return {
      groups: [{ name: "not known", color: GRAY }, ...shades],
      groupOf: disagreement.map((percent) => (percent < 0 ? 0 : 1 + Math.min(SHADES - 1, Math.floor(percent / 10)))),
    };
  }
  const shown = by === "label" ? words : words.slice(0, predictable);
  const of = by === "label" ? label : predicted;
  return {
    groups: [
      { name: by === "label" ? "no label" : "no prediction", color: GRAY },
      ...shown.map((name, place) => ({ name, color: schemeTableau10[place % schemeTableau10.length] })),
    ],
    groupOf: of.map((place) => place + 1),
  };
}

export function show(found, colored) {
  if (found !== data) {
    data = found;
    tree = quadtree(data.ids.map((_, place) => place), (place) => data.x[place], (place) => data.y[place]);
  }
  ({ groups, groupOf } = colored);
  const known = data.ids.map((_, place) => place);
  order = [...known.filter((place) => groupOf[place] === 0), ...known.filter((place) => groupOf[place] > 0)];
  draw();
}

export function choose(points) {
  chosen = points;
  draw();
}

function isShown(place) {
  return !groups[groupOf[place]].hidden;
}

// Where a point is on the screen, in its pixels.
function scales() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const [stepX, stepY] = [(width - 2 * EDGE) / MOST, (height - 2 * EDGE) / MOST];
  return {
    onX: (x) => view.applyX(EDGE + x * stepX), onY: (y) => view.applyY(height - EDGE - y * stepY),
    ofX: (x) => (view.invertX(x) - EDGE) / stepX, ofY: (y) => (height - EDGE - view.invertY(y)) / stepY,
    step: view.k * Math.min(stepX, stepY),
  };
}

export function draw() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(paint);
}

function packed(color, alpha) {
  const { r, g, b } = rgb(color);
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

function paint() {
  wanted = false;
  const began = performance.now();
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.max(1, Math.round(size * ratio)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const picture = pen.createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  const { onX, onY } = scales();
  const [startX, perX] = [onX(0) * ratio, (onX(1) - onX(0)) * ratio];
  const [startY, perY] = [onY(0) * ratio, (onY(1) - onY(0)) * ratio];
  const size = Math.round(ratio * Math.min(9, Math.max(2.5, (2.5 + 40 / Math.sqrt(1 + data.ids.length)) * Math.sqrt(view.k))));
  const [strong, weak] = [255, 50].map((alpha) => groups.map(({ color }) => packed(color, alpha)));
  for (const place of order) {
    if (groups[groupOf[place]].hidden) continue;
    const left = Math.round(startX + data.x[place] * perX - size / 2);
    const top = Math.round(startY + data.y[place] * perY - size / 2);
    if (left < 0 || top < 0 || left + size > width || top + size > height) continue;
    const color = (chosen === null || chosen.has(place) ? strong : weak)[groupOf[place]];
    for (let row = top; row < top + size; row++) pixels.fill(color, row * width + left, row * width + left + size);
  }
  pen.putImageData(picture, 0, 0);
  canvas.dataset.milliseconds = (performance.now() - began).toFixed(1);
}

// The point that is meant by a place on the canvas, undefined where none is near.
function pointAt(x, y) {
  const { ofX, ofY, onX, onY, step } = scales();
  const place = tree.find(ofX(x), ofY(y), (3 * REACH) / step);
  if (place === undefined || !isShown(place)) return undefined;
  return Math.hypot(onX(data.x[place]) - x, onY(data.y[place]) - y) <= REACH ? place : undefined;
}

function within(loop) {
  const { onX, onY } = scales();
  const found = new Set();
  const [left, right] = [Math.min(...loop.map(([x]) => x)), Math.max(...loop.map(([x]) => x))];
  data.ids.forEach((_, place) => {
    const x = onX(data.x[place]);
    if (x >= left && x <= right && isShown(place) && polygonContains(loop, [x, onY(data.y[place])])) found.add(place);
  });
  return found;
}

// Listen: `lassoed` is called with a set of points, `clicked` and `pointed` with a point, or undefined for none.
export function start({ lassoed, clicked, pointed }) {
  const moving = zoom().scaleExtent([0.8, 60]).filter((event) => event.type === "wheel" || (!isLasso() && !event.button));
  const box = select(canvas);
  box.call(moving.on("zoom", ({ transform }) => {
    view = transform;
    draw();
  }));
  const by = { closer: () => moving.scaleBy(box, 1.5), farther: () => moving.scaleBy(box, 1 / 1.5) };
  by.whole = () => moving.transform(box, zoomIdentity);
  for (const [id, act] of Object.entries(by)) byId(id).addEventListener("click", act);
  const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { "+": by.closer, "-": by.farther, 0: by.whole }[event.key];
    if (act) act();
    else if (steps[event.key]) moving.translateBy(box, ...steps[event.key].map((step) => step / view.k));
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("click", (event) => {
    if (!circled && !isLasso()) clicked(pointAt(event.offsetX, event.offsetY));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons === 0) pointed(pointAt(event.offsetX, event.offsetY), event.offsetX, event.offsetY);
  });
  canvas.addEventListener("pointerleave", () => pointed(undefined));
  listenToLasso(lassoed);
  new ResizeObserver(draw).observe(canvas);
}

function isLasso() {
  return byId("lasso").getAttribute("aria-pressed") === "true";
}

export function setLasso(on) {
  byId("lasso").setAttribute("aria-pressed", String(on));
  byId("plane").classList.toggle("lassoing", on);
}

function listenToLasso(lassoed) {
  let loop = null;
  const end = (keep) => {
    circled = true;
    if (keep && loop.length > 2) lassoed(within(loop));
    loop = null;
    byId("loop").removeAttribute("d");
  };
  byId("lasso").addEventListener("click", () => setLasso(!isLasso()));
  canvas.addEventListener("pointerdown", (event) => {
    circled = false;
    if (!isLasso() || event.button) return;
    canvas.setPointerCapture(event.pointerId);
    loop = [[event.offsetX, event.offsetY]];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (loop === null) return;
    loop.push([event.offsetX, event.offsetY]);
    byId("loop").setAttribute("d", `M${loop.map((point) => point.join(" ")).join("L")}Z`);
  });
  canvas.addEventListener("pointerup", () => loop && end(true));
  canvas.addEventListener("pointercancel", () => loop && end(false));
}
