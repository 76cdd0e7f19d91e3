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

function figure({ kappa, low, high }) {
  if (kappa === null) return "undefined, as all say the same";
  const interval = low === null ? "" : ` (95 %: ${low.toFixed(2)} to ${high.toFixed(2)})`;
  return `${kappa.toFixed(2)}${interval}`;
}

function said({ who, label }, shown) {
  return `${shown(who ?? "somebody")}: ${shown(label)}`;
}

export function showReaders({ agreement, disagreements }, open) {
  const key = JSON.stringify([agreement, disagreements]);
  const box = byId("readers");
  if (box.dataset.shown === key) return; // who has the focus keeps it
  box.dataset.shown = key;
  box.hidden = agreement === null;
  if (agreement === null) return;
  const { images, agree, fleiss, cohen } = agreement;
  const count = images === 1 ? "1 image" : `${images} images`;
  byId("agreement").textContent =
    `${count} read twice, ${Math.round(100 * agree)} % alike. Fleiss' kappa ${figure(fleiss)}`;
  byId("pairs").replaceChildren(...cohen.map((pair) => element("li",
    `${pair.readers.map(quoted).join(" and ")}, ${pair.images}: Cohen's kappa ${figure(pair)}`)));
  byId("disputes").hidden = disagreements.length === 0;
  byId("disputes-title").textContent = `Disagreements to settle: ${disagreements.length}`;
  byId("disputes-list").replaceChildren(...disagreements.map(({ id, readings }) => {
    const [words, plain] = [quoted, String].map((shown) => readings.map((one) => said(one, shown)).join("; "));
    const button = element("button", "", { type: "button" });
    button.append(element("bdi", visible(id)), `: ${words}`);
    button.addEventListener("click", () => open(id, `to be settled. ${plain}`, true));
    const row = element("li");
    row.append(button);
    return row;
  }));
}
