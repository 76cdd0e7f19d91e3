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

// The image: slices, window, and what is drawn.

import { ask, askJson, byId, place } from "./server.js";
import { forget, keep, showPresets, windowOf } from "./windows.js";

const box = byId("screen");
const canvas = byId("picture");
const [slice, center, width] = ["slice", "center", "width"].map(byId);
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
const SETTLED = 250; // milliseconds without another slice or window
const NOTCH = 40; // pixels that a touchpad scrolls for a slice

let shown = null; // {id, info}
let drawing = false;
let wanted = false; // whether another drawing has been asked for since
let scrolled = 0;
let timer;
let failed = () => {};

async function bitmap(id, parameters) {
  const answer = await ask("GET", `weckd/image/${place(id)}/png?${new URLSearchParams(parameters)}`);
  return createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
}

// Ask for an image before it is shown.
export async function load(id) {
  const info = await askJson("GET", `weckd/image/${place(id)}`);
  return { id, info, picture: await bitmap(id, {}) };
}

export function show({ id, info, picture }) {
  shown = { id, info };
  const [pixelWidth, pixelHeight] = info.pixel;
  byId("frame").style.setProperty("--aspect", (info.shape[0] * pixelWidth) / (info.shape[1] * pixelHeight));
  byId("edge-left").textContent = info.edges?.left ?? "";
  byId("edge-top").textContent = info.edges?.top ?? "";
  for (const part of document.querySelectorAll(".volume")) part.hidden = info.slices < 2;
  for (const part of document.querySelectorAll(".window")) part.hidden = info.window === null;
  box.classList.toggle("windowed", info.window !== null);
  slice.max = info.slices;
  slice.value = Math.floor(info.slices / 2) + 1;
  if (info.window !== null) setRange(info);
  byId("blank").hidden = true;
  byId("frame").hidden = false;
  paint(picture);
  tell();
  // the picture was made in the window of the image, not in that of its series
  if (info.window !== null && windowOf(shown) !== info.window) redraw();
  showNeighbors();
}

// The slices before and after this one; they wait until somebody stops.
function showNeighbors() {
  clearTimeout(timer);
  const { id, info } = shown;
  byId("neighbors").hidden = info.slices < 2;
  if (info.slices < 2) return;
  timer = setTimeout(() => {
    if (shown?.id !== id) return;
    for (const [name, step] of [["before", -1], ["after", 1]]) {
      const number = Number(slice.value) - 1 + step;
      const parameters = { slice: number };
      if (info.window !== null) Object.assign(parameters, { center: center.value, width: width.value });
      const picture = byId(name);
      picture.hidden = number < 0 || number >= info.slices;
      if (picture.hidden) continue;
      picture.src = `weckd/image/${place(id)}/png?${new URLSearchParams(parameters)}`;
      picture.alt = `slice ${number + 1}`;
    }
  }, SETTLED);
}

export function hide(text) {
  shown = null;
  byId("frame").hidden = true;
  byId("neighbors").hidden = true;
  for (const part of document.querySelectorAll(".volume, .window")) part.hidden = true;
  byId("blank").hidden = false;
  byId("blank").textContent = text;
}

function setRange({ limits, window, auto }) {
  const low = Math.min(limits.low, ...[window, auto].map((one) => one.center - one.width / 2));
  const high = Math.max(limits.high, ...[window, auto].map((one) => one.center + one.width / 2));
  const step = (high - low) / 500;
  Object.assign(center, { min: low, max: high, step: "any" });
  Object.assign(width, { min: step, max: 2 * (high - low), step: "any" });
  setWindow(windowOf(shown));
  showPresets(shown, (...values) => {
    setWindow({ center: values[0], width: values[1] });
    rewindow();
  });
}

function setWindow(window) {
  center.value = window.center;
  width.value = window.width;
}

// Somebody has changed the window: the series keeps it.
function rewindow() {
  keep(shown, { center: Number(center.value), width: Number(width.value) });
  redraw();
}

function paint(picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

function tell() {
  const { info } = shown;
  byId("slice-text").textContent = `${slice.value} of ${info.slices}`;
  for (const [input, name] of [[center, "center-text"], [width, "width-text"]]) {
    const text = NUMBER.format(input.value);
    byId(name).textContent = text;
    input.setAttribute("aria-valuetext", text);
  }
  slice.setAttribute("aria-valuetext", `${slice.value} of ${info.slices}`);
  canvas.setAttribute("aria-label", info.slices > 1 ? `slice ${slice.value} of ${info.slices}` : "the image");
}

// One drawing at a time: while it goes on, only the last wish counts.
async function redraw() {
  tell();
  wanted = true;
  if (drawing) return;
  drawing = true;
  try {
    while (wanted && shown) {
      wanted = false;
      const { id, info } = shown;
      const parameters = { slice: Number(slice.value) - 1 };
      if (info.window !== null) Object.assign(parameters, { center: center.value, width: width.value });
      const picture = await bitmap(id, parameters);
      if (shown?.id === id) paint(picture);
    }
    if (shown) showNeighbors();
    failed(null);
  } catch (error) {
    failed(error, redraw);
  } finally {
    drawing = false;
  }
}

function move(steps) {
  const before = slice.value;
  slice.value = Number(slice.value) + steps;
  if (slice.value !== before) redraw();
}

function isVolume() {
  return shown !== null && shown.info.slices > 1;
}

// Arrow keys; returns whether the key was one of them.
export function key(name) {
  const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[name];
  if (steps === undefined || !isVolume()) return false;
  move(steps);
  return true;
}

function wheel(event) {
  if (!isVolume() || event.ctrlKey) return;
  event.preventDefault();
  scrolled += event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : NOTCH * Math.sign(event.deltaY);
  const steps = Math.trunc(scrolled / NOTCH);
  scrolled -= steps * NOTCH;
  if (steps) move(event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? Math.sign(steps) : steps);
}

// To the right: wider; downwards: a higher center, so darker.
function drag(event) {
  if (!shown?.info.window || event.buttons !== 1) return;
  const step = width.max / 1000;
  width.value = Number(width.value) + event.movementX * step;
  center.value = Number(center.value) + event.movementY * step;
  rewindow();
}

// Listen; `report` is called with what went wrong and how to retry, or with null when all is well again.
export function start(report) {
  failed = report;
  slice.addEventListener("input", redraw);
  for (const input of [center, width]) input.addEventListener("input", rewindow);
  byId("reset").addEventListener("click", () => {
    forget(shown);
    setWindow(shown.info.window);
    redraw();
  });
  box.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", drag);
  hide("Waiting for the server …");
}
