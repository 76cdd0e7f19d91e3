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

// What several readers say: how well they agree, and what is left to settle.

import { byId, element, quoted, visible } from "./server.js";
import { counted, worded } from "./words.js";

function figure({ kappa, low, high }) {
  if (kappa === null) return "undefined, as all say the same";
  const interval = low === null ? "" : ` (95 %: ${low.toFixed(2)} to ${high.toFixed(2)})`;
  return `${kappa.toFixed(2)}${interval}`;
}

function said({ who, label }, state, shown) {
  return `${shown(who ?? "somebody")}: ${worded(label, state, shown)}`;
}

function twice({ images, agree }) {
  return `${counted(images)} read twice, ${Math.round(100 * agree)} % alike.`;
}

function pairs(cohen, of) {
  return cohen.map((pair) =>
    element("li", `${of}${pair.readers.map(quoted).join(" and ")}, ${pair.images}: Cohen's kappa ${figure(pair)}`));
}

// How well readers agree; on findings, on each of them.
function rows({ of, cohen }) {
  if (of === undefined) return pairs(cohen, "");
  return Object.entries(of).flatMap(([name, one]) => [
    element("li", `${quoted(name)}, ${one.images}: Fleiss' kappa ${figure(one.fleiss)}`),
    ...pairs(one.cohen, `${quoted(name)}, `),
  ]);
}

export function showReaders(state, open) {
  const { agreement, disagreements } = state;
  const key = JSON.stringify([agreement, disagreements]);
  const box = byId("readers");
  if (box.dataset.shown === key) return; // who has the focus keeps it
  box.dataset.shown = key;
  box.hidden = agreement === null;
  if (agreement === null) return;
  const all = agreement.of === undefined ? ` Fleiss' kappa ${figure(agreement.fleiss)}` : "";
  byId("agreement").textContent = `${twice(agreement)}${all}`;
  byId("pairs").replaceChildren(...rows(agreement));
  byId("disputes").hidden = disagreements.length === 0;
  byId("disputes-title").textContent = `Disagreements to settle: ${disagreements.length}`;
  byId("disputes-list").replaceChildren(...disagreements.map(({ id, readings }) => {
    const [words, plain] = [quoted, String].map((shown) => readings.map((one) => said(one, state, shown)).join("; "));
    const button = element("button", "", { type: "button" });
    button.append(element("bdi", visible(id)), `: ${words}`);
    button.addEventListener("click", () => open(id, `to be settled. ${plain}`, true));
    const row = element("li");
    row.append(button);
    return row;
  }));
}
