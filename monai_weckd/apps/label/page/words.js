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

// Labels, and what has one, in words. A label of findings has those that are known, such as effusion=1|nodule=0.

import { quoted } from "./server.js";

const NOUNS = {
  image: ["image", "images"], series: ["series", "series"], study: ["study", "studies"], patient: ["patient", "patients"],
};
let nouns = NOUNS.image;

// From now on, speak of the items of a level; texts of the page that have `data-noun` do, too.
export function speakOf(level) {
  if (nouns === NOUNS[level]) return;
  nouns = NOUNS[level];
  for (const part of document.querySelectorAll("[data-noun]")) {
    const word = nouns[Number(part.dataset.noun === "many")];
    part.textContent = /^[A-Z]/.test(part.textContent) ? word[0].toUpperCase() + word.slice(1) : word;
  }
}

export function noun(count = 1) {
  return nouns[Number(count !== 1)];
}

export function counted(count) {
  return `${count} ${noun(count)}`;
}

export function findingsOf(label) {
  if (!label?.includes("=")) return {};
  return Object.fromEntries(label.split("|").map((part) => {
    const at = part.lastIndexOf("=");
    return [part.slice(0, at), Number(part.slice(at + 1))];
  }));
}

// A label within a sentence.
export function worded(label, { findings }, show = quoted) {
  const said = Object.entries(findings ? findingsOf(label) : {});
  if (said.length === 0) return show(label);
  const present = said.filter(([, value]) => value === 1).map(([name]) => show(name));
  const absent = said.length - present.length;
  const what = present.length > 0 ? present.join(", ") : "no finding";
  return absent > 0 ? `${what} (${absent} absent)` : what;
}
