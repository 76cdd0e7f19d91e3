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

// Images beside the one that is shown: labeled ones that are most like it, and others of its group.

import { askJson, byId, element, place, visible } from "./server.js";
import { worded } from "./words.js";

let wanted = null; // id of the image

export function hideSimilar() {
  wanted = null;
  for (const name of ["similar", "related"]) byId(name).hidden = true;
}

// Ask for them; without an answer there are none. `open` is called with the id of one that somebody wants to see.
export async function showSimilar(id, state, open) {
  await fill("similar", id, ({ id: other, label }) => [other, worded(label, state, visible)], open);
}

export async function showRelated(id, open) {
  await fill("related", id, (other) => [other, visible(other.split("/").at(-1))], open);
}

async function fill(name, id, described, open) {
  wanted = id;
  const found = await askJson("GET", `weckd/${name}/${place(id)}`).catch(() => []);
  if (wanted !== id) return; // another image has come
  byId(name).hidden = found.length === 0;
  byId(`${name}-images`).replaceChildren(...found.map((one) => {
    const [other, words] = described(one);
    const button = element("button", "", { type: "button", className: "cell" });
    const picture = element("img", "", { src: `weckd/image/${place(other)}/png`, alt: visible(other) });
    picture.addEventListener("error", () => {
      button.remove(); // it cannot be read
      byId(name).hidden = byId(`${name}-images`).children.length === 0;
    });
    button.append(picture, element("bdi", words, { className: "what" }));
    button.addEventListener("click", () => open(other));
    return button;
  }));
}
