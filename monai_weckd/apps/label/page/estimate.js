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

// How good the head of all labels so far is, as far as the server knows, and how that has changed.

import { byId } from "./server.js";

function percent(share) {
  return (100 * share).toFixed(0);
}

function sentence({ value, interval: [low, high] }) {
  return `${percent(value)} % (95 %: ${percent(low)} to ${percent(high)})`;
}

export function showEstimate({ live }) {
  const { estimate = null, before = null } = live ?? {};
  if (live !== null && estimate === null) return; // a new one is on its way, or cannot be known
  byId("estimate").hidden = estimate === null;
  if (estimate === null) return;
  const change = before === null ? "" : `; with ${before.labels} labels ${percent(before.value)} %`;
  byId("estimate").textContent =
    `Balanced accuracy on new groups, estimated from ${estimate.labels} labels: ${sentence(estimate)}${change}`;
}
