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

// What the page knows at the moment, and one thing at a time. What has been skipped and given in this window is kept by
// the browser until the window is closed.

import { byId, visible } from "./server.js";

const KEPT = 200;

// A copy of an open window, as "Duplicate" makes it, has what the browser keeps of that window: it is one of its own.
if (sessionStorage.open) for (const name of ["window", "skipped", "given"]) sessionStorage.removeItem(name);
window.addEventListener("pageshow", () => (sessionStorage.open = "yes"));
window.addEventListener("pagehide", () => sessionStorage.removeItem("open"));

export const WINDOW = (sessionStorage.window ??=
  Array.from(crypto.getRandomValues(new Uint32Array(4)), String).join("-"));

export const desk = {
  state: null, // what the server said last
  current: null, // {id, reason, probabilities, label, ready}
  busy: false,
  pending: null, // {id, label} that the server has not confirmed
  failure: null, // {text, retry} of what somebody did
  offline: null, // likewise of the state
  render: () => {}, // shows all this
};

export function remembered(name) {
  return JSON.parse(sessionStorage.getItem(name) ?? "[]");
}

export function remember(name, list) {
  sessionStorage.setItem(name, JSON.stringify(list.slice(-KEPT)));
}

export function say(text) {
  byId("status").textContent = text;
}

// One thing at a time. What fails says so and waits for somebody to retry it; nothing else is begun before a label that
// could not be saved is saved or skipped.
export async function attempt(action, retry, prefix = "") {
  desk.busy = true;
  desk.render();
  try {
    await action();
    desk.failure = null;
    return true;
  } catch (error) {
    desk.failure = { text: prefix + visible(error.message), retry };
    return false;
  } finally {
    desk.busy = false;
    desk.render();
  }
}

// Whether the server wants a name that it has not got.
export function unnamed() {
  return desk.state !== null && desk.state.asks_name && desk.state.person === null;
}

export function nameless() {
  if (!unnamed()) return false;
  say("Enter your name first: each label says who gave it.");
  byId("person").focus();
  return true;
}

export function locked() {
  if (nameless()) return true;
  if (desk.pending !== null) say("Retry, choose again, or skip: the last label is not saved.");
  return desk.busy || desk.pending !== null;
}

// How many images this person could be shown.
export function left(known) {
  return known === null ? null : known.images.unlabeled + known.images.waiting;
}
