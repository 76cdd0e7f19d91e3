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

// Several findings in one image: what is present, what is absent, and what nobody has said.

import { desk, nameless, say } from "./desk.js";
import { give } from "./labels.js";
import { byId, visible } from "./server.js";
import { findingsOf } from "./words.js";

const PERCENT = new Intl.NumberFormat("en", { style: "percent" });
const WORDS = new Map([[1, "yes"], [0, "no"], [undefined, "unknown"]]);
const NEXT = new Map([[undefined, 1], [1, 0], [0, undefined]]);

// What is said of the image that is shown; at first what has been said of it.
function draft() {
  const image = desk.current;
  image.draft ??= findingsOf(image.label);
  return image.draft;
}

function isReady() {
  if (nameless()) return false;
  if (desk.busy || !desk.current?.ready) {
    say("Too early: wait until the image is shown.");
    return false;
  }
  return true;
}

// Yes, then no, then unknown again.
export function toggle(name) {
  if (!isReady()) return;
  const value = NEXT.get(draft()[name]);
  if (value === undefined) delete draft()[name];
  else draft()[name] = value;
  say(`${visible(name)}: ${WORDS.get(value)}`);
  desk.render();
}

export function normal() {
  if (!isReady()) return;
  desk.current.draft = Object.fromEntries(desk.state.classes.map((name) => [name, 0]));
  say("Normal: all findings are absent. Confirm with Enter.");
  desk.render();
}

// Somebody says that all is absent that they have not touched; without this it stays unknown.
export function restAbsent() {
  if (!isReady()) return;
  const rest = desk.state.classes.filter((name) => !(name in draft()));
  for (const name of rest) draft()[name] = 0;
  say(`${rest.length} further findings are absent. Confirm with Enter.`);
  desk.render();
}

export function confirm() {
  if (!isReady()) return;
  const said = desk.state.classes.filter((name) => name in draft());
  if (said.length === 0) say("Nothing is said yet: choose findings, or say that all are absent, or skip.");
  else give(said.map((name) => `${name}=${draft()[name]}`).join("|"));
}

export function showFindings({ classes, labels, absent, thresholds }, current, locked) {
  const said = current?.ready ? draft() : {};
  [...byId("classes").children].forEach((button, index) => {
    const name = classes[index];
    const probability = current?.probabilities?.[index];
    const limit = thresholds?.[index];
    button.querySelector(".bar").style.width = `${100 * (probability ?? 0)}%`;
    button.querySelector(".limit").style.left = `${100 * (limit ?? 0)}%`;
    button.querySelector(".limit").hidden = probability === undefined || typeof limit !== "number";
    button.querySelector(".probability").textContent = suggestion(probability, limit);
    button.querySelector(".count").textContent = `${labels[name]} yes, ${absent[name]} no`;
    button.querySelector(".said").textContent = WORDS.get(said[name]);
    button.dataset.said = WORDS.get(said[name]);
    button.setAttribute("aria-pressed", name in said ? String(said[name] === 1) : "mixed");
    button.setAttribute("aria-disabled", String(locked));
  });
  const unknown = classes.filter((name) => !(name in said)).length;
  byId("unknown").textContent = unknown === 0 ? "All are known." : `${unknown} not touched: they stay unknown.`;
  for (const id of ["normal", "rest", "confirm"]) byId(id).setAttribute("aria-disabled", String(locked));
}

function suggestion(probability, limit) {
  if (probability === undefined) return "";
  const verdict = typeof limit === "number" && probability >= limit ? "yes" : "no";
  return `${PERCENT.format(probability)}, model: ${verdict}`;
}
