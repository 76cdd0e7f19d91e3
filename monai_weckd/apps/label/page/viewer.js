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

// The image, or the images of an item: slices, window, and what is drawn.

import { ask, askJson, byId, place, visible } from "./server.js";
import { forget, keep, showPresets, windowOf } from "./windows.js";

const box = byId("screen");
const canvas = byId("picture");
const [image, slice, center, width] = ["image", "slice", "center", "width"].map(byId);
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
const SETTLED = 250; // milliseconds without another slice or window
const NOTCH = 40; // pixels that a touchpad scrolls for a slice

let shown = null; // {id, info}
let drawing = false;
let wanted = false; // whether another drawing has been asked for since
let aim = null; // {id, number, start}: another image of the item that is wanted
let turning = false;
let scrolled = 0;
let timer;
let failed = () => {};

async function bitmap(id, parameters) {
  const answer = await ask("GET", `weckd/image/${place(id)}/png?${new URLSearchParams(parameters)}`);
  return createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
}

// Ask for an image, or one of an item, before it is shown. A volume starts at its middle slice, or at a given one.
export async function load(id, { number, start } = {}) {
  const info = await askJson("GET", `weckd/image/${place(id)}${number === undefined ? "" : `?image=${number}`}`);
  const first = start === undefined ? Math.floor(info.slices / 2) : start < 0 ? info.slices - 1 : start;
  return { id, info, first, picture: await bitmap(id, { ...imageOf(info), slice: first }) };
}

function imageOf(info) {
  return info.images > 1 ? { image: info.image } : {};
}

export function show({ id, info, first, picture }) {
  shown = { id, info };
  showPlace();
  const [pixelWidth, pixelHeight] = info.pixel;
  byId("frame").style.setProperty("--aspect", (info.shape[0] * pixelWidth) / (info.shape[1] * pixelHeight));
  byId("edge-left").textContent = info.edges?.left ?? "";
  byId("edge-top").textContent = info.edges?.top ?? "";
  for (const part of document.querySelectorAll(".volume")) part.hidden = info.slices < 2;
  for (const part of document.querySelectorAll(".window")) part.hidden = info.window === null;
  box.classList.toggle("windowed", info.window !== null);
  slice.max = info.slices;
  slice.value = first + 1;
  if (info.window !== null) setRange(info);
  byId("blank").hidden = true;
  byId("frame").hidden = false;
  paint(picture);
  tell();
  // the picture was made in the window of the image, not in that of its series
  if (info.window !== null && windowOf(shown) !== info.window) redraw();
  showNeighbors();
}

function showPlace() {
  const { image: number, images, file } = shown.info;
  for (const part of document.querySelectorAll(".several")) part.hidden = images < 2;
  image.max = images;
  image.value = number + 1;
  byId("file").textContent = images < 2 ? "" : visible(file);
  tellPlace();
}

function tellPlace() {
  const text = `${image.value} of ${image.max}`;
  byId("image-text").textContent = text;
  image.setAttribute("aria-valuetext", text);
}

// In place of an image of an item that cannot be read.
function showFault({ id, info }) {
  shown = { id, info };
  showPlace();
  byId("frame").hidden = true;
  byId("neighbors").hidden = true;
  for (const part of document.querySelectorAll(".volume, .window")) part.hidden = true;
  byId("blank").hidden = false;
  byId("blank").textContent = `This image cannot be read, and is left out. ${visible(info.fault)}`;
}

// Show another image of the item: one at a time, and only the last wish counts.
async function turn(number, start) {
  if (shown === null || number < 0 || number >= shown.info.images) return;
  aim = { id: shown.id, number, start };
  image.value = number + 1;
  tellPlace();
  if (turning) return;
  turning = true;
  try {
    while (aim !== null) {
      const mine = aim;
      const found = await load(mine.id, mine).catch((error) => faulty(mine, error));
      if (shown?.id !== mine.id) aim = null; // another item has come
      else if (aim === mine) {
        aim = null;
        (found.info.fault ? showFault : show)(found);
      }
    }
    failed(null);
  } catch (error) {
    aim = null;
    failed(error, () => turn(number, start));
  } finally {
    turning = false;
  }
}

function faulty({ id, number }, error) {
  if (error.status !== 400) throw error;
  const { images } = shown.info;
  return { id, info: { image: number, images, file: "", slices: 1, window: null, fault: error.message } };
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
      const parameters = { ...imageOf(info), slice: number };
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
  for (const part of document.querySelectorAll(".several, .volume, .window")) part.hidden = true;
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
  const parts = info.images > 1 ? [`image ${image.value} of ${info.images}`] : [];
  if (info.slices > 1) parts.push(`slice ${slice.value} of ${info.slices}`);
  canvas.setAttribute("aria-label", parts.join(", ") || "the image");
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
      const parameters = { ...imageOf(info), slice: Number(slice.value) - 1 };
      if (info.window !== null) Object.assign(parameters, { center: center.value, width: width.value });
      const picture = await bitmap(id, parameters);
      if (shown?.info === info) paint(picture);
    }
    if (shown) showNeighbors();
    failed(null);
  } catch (error) {
    failed(error, redraw);
  } finally {
    drawing = false;
  }
}

// The next slice, or behind the last one the next image of the item; backwards likewise.
function move(steps) {
  const before = slice.value;
  if (shown.info.slices > 1) slice.value = Number(slice.value) + steps;
  if (slice.value !== before) redraw();
  else turn(Number(image.value) - 1 + Math.sign(steps), steps > 0 ? 0 : -1);
}

function moves() {
  return shown !== null && (shown.info.slices > 1 || shown.info.images > 1);
}

// Arrow keys, and the keys of whole images; returns whether the key was one of them.
export function key(name) {
  const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1 }[name];
  const images = { PageUp: -1, PageDown: 1 }[name];
  if (!moves() || (steps ?? images) === undefined || (images !== undefined && shown.info.images < 2)) return false;
  if (steps !== undefined) move(steps);
  else turn(Number(image.value) - 1 + images);
  return true;
}

function wheel(event) {
  if (!moves() || event.ctrlKey) return;
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
  image.addEventListener("input", () => turn(Number(image.value) - 1));
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
