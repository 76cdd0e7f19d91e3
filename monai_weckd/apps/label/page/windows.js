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

// The window of gray images: kept for each series, and set by presets.

import { byId, element } from "./server.js";

// center and width in Hounsfield units, as they are common in radiology
const OF_MODALITY = { CT: { "soft tissue": [40, 400], lung: [-600, 1500], bone: [400, 1800], brain: [40, 80] } };
const KEPT = 200;

function stored() {
  return JSON.parse(sessionStorage.getItem("windows") ?? "{}");
}

// All images of a series share a window; another image has its own.
function keyOf({ id, info }) {
  return info.series || id;
}

export function keep(shown, window) {
  const { [keyOf(shown)]: _, ...others } = stored();
  const entries = [...Object.entries(others), [keyOf(shown), window]];
  sessionStorage.setItem("windows", JSON.stringify(Object.fromEntries(entries.slice(-KEPT))));
}

export function forget(shown) {
  const { [keyOf(shown)]: _, ...others } = stored();
  sessionStorage.setItem("windows", JSON.stringify(others));
}

export function windowOf(shown) {
  return stored()[keyOf(shown)] ?? shown.info.window;
}

// Buttons of the presets; `set` is called with center and width.
export function showPresets({ info }, set) {
  const known = { auto: [info.auto.center, info.auto.width], ...OF_MODALITY[info.modality] };
  byId("presets").replaceChildren(...Object.entries(known).map(([name, window]) => {
    const button = element("button", name[0].toUpperCase() + name.slice(1), { type: "button" });
    button.addEventListener("click", () => set(...window));
    return button;
  }));
}
