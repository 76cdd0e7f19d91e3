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

// Which image is shown: the next one, or one that somebody opens.

import { attempt, desk, left, locked, remembered, WINDOW } from "./desk.js";
import { askJson, byId, place, visible } from "./server.js";
import { hideSimilar, showRelated, showSimilar } from "./similar.js";
import * as viewer from "./viewer.js";
import { noun } from "./words.js";

let coming = null; // {id, loaded}: the image after it
let first = []; // ids that are shown before what the server suggests
let idleAt = null; // unlabeled images when there was nothing to show

async function display(suggestion) {
  const { id, reason } = suggestion;
  desk.current = { ...suggestion, ready: false };
  byId("name").textContent = visible(id);
  byId("like").href = `explore?like=${encodeURIComponent(id)}`;
  byId("reason").textContent = `Why this one: ${visible(reason)}`;
  viewer.hide("Loading …");
  hideSimilar();
  const loaded = (coming?.id === id ? await coming.loaded : null) ?? (await viewer.load(id).catch(told));
  coming = null;
  viewer.show(loaded);
  byId("announcement").textContent = `New ${noun()}: ${visible(id)}`;
  Object.assign(desk.current, { label: loaded.info.label, ready: true });
  showRelated(id, open);
  if (!loaded.info.blind) {
    if (!desk.current.probabilities) predict();
    showSimilar(id, desk.state, open);
  }
}

function told(error) {
  if (error.status === 400) error.message += " Skip it to go on."; // it cannot be read: retrying is of no use
  throw error;
}

// The last student's opinion, where it did not come with the image; without it, there is no bar.
export async function predict() {
  const image = desk.current;
  if (image === null || !desk.state?.stages.some((stage) => stage.accepted)) return;
  const answer = await askJson("GET", `weckd/predict/${place(image.id)}`).catch(() => null);
  if (answer !== null) image.probabilities = answer.prediction.map((one) => one.score);
  desk.render();
}

export function open(id, reason = "you want to see it again", settle = false) {
  if (locked()) return;
  attempt(() => display({ id, reason, settle, probabilities: null }), () => open(id, reason, settle));
}

export async function next() {
  await attempt(findNext, next);
}

// Show these images next, one after the other.
export function showFirst(ids) {
  first = [...ids];
}

export async function findNext() {
  const id = first.shift();
  if (id !== undefined) {
    await display({ id, reason: "you have taken it out of a batch", probabilities: null });
    return;
  }
  const skipped = remembered("skipped");
  let found = [];
  try {
    const answer = await askJson("POST", "weckd/next", { window: WINDOW, count: 2, without: skipped });
    found = [answer, ...answer.more];
  } catch (error) {
    if (error.status !== 404) throw error; // 404: none is left
  }
  if (found.length === 0) {
    desk.current = null;
    hideSimilar();
    idleAt = left(desk.state);
    byId("name").textContent = `No ${noun()} left`;
    byId("reason").textContent = "";
    viewer.hide("");
    return;
  }
  await display(found[0]);
  if (found.length > 1) coming = { id: found[1].id, loaded: viewer.load(found[1].id).catch(() => null) };
}

// Whether there is more to show than when nothing was left.
export function isNews(state) {
  return left(state) !== idleAt;
}

// Whether nothing is shown because nothing is left.
export function idle() {
  return desk.current === null && idleAt !== null && !desk.busy;
}

// Why nothing is left, as far as the server has said.
export function tellIdle({ images }, onlySkipped) {
  if (!idle()) return;
  const all = images.labeled === images.total;
  const rest = all ? `Each ${noun()} has a label.` : `No ${noun()} waits for your label: the counts under Labels say why.`;
  byId("blank").textContent = onlySkipped ? `Only skipped ${noun(2)} are left without a label.` : rest;
}
