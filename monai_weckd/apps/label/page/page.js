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

// The page: one image after the other. All that it knows comes from /weckd/state and /weckd/next, but for what has
// been skipped and given in this window.

import { addClass } from "./adding.js";
import { desk, left, remembered, unnamed } from "./desk.js";
import { batchKey, closeBatch, confirmBatch, isOpen, openBatch } from "./batch.js";
import { confirm, normal, restAbsent, showFindings, toggle } from "./findings.js";
import { showEstimate } from "./estimate.js";
import { open, tellIdle } from "./images.js";
import { give, skip, undo } from "./labels.js";
import { preview, takeManifest } from "./manifest.js";
import { showAnswers, showChain, showClasses, showProgress } from "./panels.js";
import { onChange, onName } from "./person.js";
import { poll } from "./poll.js";
import { showReaders } from "./readers.js";
import { byId, speakAs, visible } from "./server.js";
import { stop, train } from "./training.js";
import * as viewer from "./viewer.js";

const asked = Number(new URLSearchParams(location.search).get("budget"));
const limit = Number.isInteger(asked) && asked > 0 ? asked : null;

function openAgain(...image) {
  closeBatch();
  open(...image);
}

function undoHere() {
  closeBatch();
  undo();
}

function render() {
  const trouble = desk.failure ?? desk.offline;
  byId("error").hidden = trouble === null;
  byId("error-text").textContent = trouble?.text ?? "";
  if (desk.state === null) return;
  byId("ask").hidden = !unnamed();
  byId("you").hidden = desk.state.person === null;
  byId("you-name").textContent = visible(desk.state.person ?? "");
  byId("change").hidden = !desk.state.asks_name;
  const closed = desk.busy || unnamed() || !desk.current?.ready;
  (desk.state.findings ? showFindings : showClasses)(desk.state, desk.current, closed);
  showAnswers(desk.state, desk.current, closed);
  showProgress(desk.state, limit, openAgain);
  showEstimate(desk.state);
  showReaders(desk.state, openAgain);
  showChain(desk.state);
  const onlySkipped = desk.current === null && remembered("skipped").length > 0 && left(desk.state) > 0;
  tellIdle(desk.state, onlySkipped);
  byId("skip-text").textContent = onlySkipped ? "Show skipped again" : desk.current?.label ? "Next" : "Skip";
}

const COMMANDS = { g: openBatch, s: skip, u: undo, t: train };
const OF_FINDINGS = { n: normal, a: restAbsent };

function actionOf(key, target) {
  const name = /^[1-9]$/.test(key) ? desk.state.classes[Number(key) - 1] : undefined;
  if (name !== undefined) return () => chosen(name);
  const answer = Object.keys(desk.state.answers).find(([first]) => first === key);
  if (answer !== undefined) return () => give(answer);
  if (!desk.state.findings) return COMMANDS[key.toLowerCase()];
  if (key === "Enter" || key === " ") return target.matches("button, summary, input, a") ? undefined : confirm;
  return { ...COMMANDS, ...OF_FINDINGS }[key.toLowerCase()];
}

// A class labels the image; a finding waits until all is said.
function chosen(name) {
  if (desk.state.findings) toggle(name);
  else give(name);
}

function onKey(event) {
  const { key, target } = event;
  if (target === byId("person") || target === byId("new-class")) return;
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && key.toLowerCase() === "z") {
    event.preventDefault();
    if (!event.repeat) undoHere();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!target.matches("input[type=range]") && viewer.key(key)) {
    event.preventDefault();
    return;
  }
  if (event.repeat || !byId("keys").checked || desk.state === null) return; // a key that is held labels one image
  if (isOpen()) {
    if (batchKey(key, target)) event.preventDefault();
    return;
  }
  const action = actionOf(key, target);
  if (action === undefined) return;
  event.preventDefault(); // it may move the focus to where a key would be typed
  action();
}

desk.render = render;
for (const [id, act] of [["classes", chosen], ["answers", give]]) {
  byId(id).addEventListener("click", ({ target, detail }) => {
    const button = target.closest("button");
    if (button === null) return;
    act(button.value);
    // after a mouse, Enter is for the image again
    if (desk.state.findings && detail > 0 && !unnamed()) byId("screen").focus({ preventScroll: true });
  });
}
for (const [id, act] of [["normal", normal], ["rest", restAbsent], ["confirm", confirm]]) {
  byId(id).addEventListener("click", act);
}
for (const [id, act] of [["look-alikes", openBatch], ["batch-confirm", confirmBatch], ["batch-close", closeBatch]]) {
  byId(id).addEventListener("click", act);
}
byId("manifest").addEventListener("change", preview);
byId("manifest-take").addEventListener("click", takeManifest);
byId("ask").addEventListener("submit", onName);
byId("add-class").addEventListener("submit", addClass);
byId("change").addEventListener("click", onChange);
byId("skip").addEventListener("click", skip);
byId("undo").addEventListener("click", undo);
byId("train").addEventListener("click", train);
byId("stop").addEventListener("click", stop);
byId("retry").addEventListener("click", () => {
  if (!desk.busy) (desk.failure ?? desk.offline)?.retry();
});
byId("keys").checked = localStorage.getItem("keys") !== "off";
byId("keys").addEventListener("change", () => localStorage.setItem("keys", byId("keys").checked ? "on" : "off"));
document.addEventListener("keydown", onKey);
window.addEventListener("beforeunload", (event) => {
  if (desk.pending !== null) event.preventDefault(); // asks whether to leave with a label that is not saved
});
viewer.start((error, retry) => {
  if (desk.pending !== null) return; // an unsaved label comes first
  desk.failure = error === null ? null : { text: visible(error.message), retry };
  render();
});
speakAs(localStorage.getItem("person"));
poll();
