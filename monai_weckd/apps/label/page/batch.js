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

// Images that look alike, to confirm at once.

import { attempt, desk, locked, remember, remembered, say, WINDOW } from "./desk.js";
import { next, showFirst } from "./images.js";
import { poll } from "./poll.js";
import { askJson, byId, element, place, quoted, visible } from "./server.js";
import { counted, noun } from "./words.js";

const PERCENT = new Intl.NumberFormat("en", { style: "percent" });

let shown = null; // {label, images: [{id, probability}], out: Set of ids}

export function isOpen() {
  return shown !== null;
}

export async function openBatch() {
  if (locked() || isOpen()) return;
  await attempt(async () => {
    let found;
    try {
      found = await askJson("GET", `weckd/batch?window=${WINDOW}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      say("No batch yet: the model is not sure of images that look alike. Label more, one by one.");
      return;
    }
    shown = { ...found, out: new Set() };
    byId("batch-images").replaceChildren(...found.images.map(cell));
    show(true);
    tell();
    byId("batch-title").focus();
  }, openBatch, "No batch. ");
}

// A batch, or one image with all that is about it.
function show(isBatch) {
  byId("batch").hidden = !isBatch;
  for (const id of ["viewer", "of-image", "beside"]) byId(id).hidden = isBatch;
}

function cell({ id, probability }, index) {
  const button = element("button", "", { type: "button", className: "cell", value: id });
  const picture = element("img", "", { src: `weckd/image/${place(id)}/png`, alt: "", loading: "lazy" });
  const key = index < 9 ? [element("kbd", String(index + 1))] : [];
  if (index < 9) button.setAttribute("aria-keyshortcuts", String(index + 1));
  const name = element("bdi", visible(id), { className: "what" });
  button.append(picture, ...key, name, element("span", PERCENT.format(probability), { className: "note" }),
    element("span", "", { className: "said" }));
  button.addEventListener("click", () => toggle(id));
  return button;
}

function tell() {
  const { label, images, out } = shown;
  const rest = images.length - out.size;
  byId("batch-title").textContent = `These ${images.length} look alike. All ${quoted(label)}?`;
  byId("batch-confirm-text").textContent =
    rest === 0 ? "Take all out" : `Label ${counted(rest)} as ${quoted(label)}`;
  for (const button of byId("batch-images").children) {
    const isOut = out.has(button.value);
    button.setAttribute("aria-pressed", String(isOut));
    button.querySelector(".said").textContent = isOut ? "taken out" : "";
  }
}

function toggle(id) {
  const { out } = shown;
  if (!out.delete(id)) out.add(id);
  tell();
}

export function closeBatch() {
  if (!isOpen() || desk.busy) return;
  shown = null;
  show(false);
  byId("screen").focus();
}

// What was taken out stays without a label, and is shown next, one by one.
export async function confirmBatch() {
  if (!isOpen() || locked()) return;
  const { label, images, out } = shown;
  const ids = images.map(({ id }) => id).filter((id) => !out.has(id));
  const done = await attempt(async () => {
    if (ids.length === 0) return;
    const { labeled, left } = await askJson("PUT", "weckd/batch", { label, ids });
    if (labeled.length > 0) remember("given", [...remembered("given"), { batch: labeled, label }]);
    const rest = left.length > 0 ? ` ${left.length} had got a label meanwhile, and keep it.` : "";
    say(`Saved: ${labeled.length} ${noun(2)} are ${quoted(label)}, confirmed together.${rest}`);
  }, confirmBatch, "Not saved. ");
  if (!done) return;
  closeBatch();
  showFirst([...out]);
  poll();
  await next();
}

// The keys while a batch is shown; returns whether the key was one of them.
export function batchKey(key, target) {
  if (key === "Escape") closeBatch();
  else if (/^[1-9]$/.test(key) && Number(key) <= shown.images.length) toggle(shown.images[Number(key) - 1].id);
  else if ((key === "Enter" || key === " ") && !target.matches("button, summary, input")) confirmBatch();
  else return false;
  return true;
}
