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

// Labels of a manifest: shown first, then taken.

import { attempt, desk, locked, say } from "./desk.js";
import { next } from "./images.js";
import { poll } from "./poll.js";
import { askJson, byId, element, quoted, visible } from "./server.js";
import { counted, noun, worded } from "./words.js";

const SHOWN = 20;

let chosen = null; // {name, text}

export async function preview() {
  const [file] = byId("manifest").files;
  forget();
  if (file === undefined || locked()) return;
  chosen = { name: file.name, text: await file.text() };
  const done = await attempt(async () => show(await askJson("POST", "weckd/labels", chosen)), preview, "No labels. ");
  if (!done) chosen = null;
}

function forget() {
  chosen = null;
  byId("manifest-preview").hidden = true;
}

function show(found) {
  const { counts, same, conflicts, missing } = found;
  const rows = Object.entries(counts).map(([name, count]) => `${quoted(name)}: ${count}`);
  byId("manifest-new").textContent =
    found.new === 0 ? `No ${noun()} gets a label.` : `${found.new} ${noun(2)} get a label. ${rows.join(", ")}.`;
  byId("manifest-same").textContent = same > 0 ? `${same} ${noun(2)} have the same label already.` : "";
  list("manifest-conflicts", conflicts, "another label, which stays", (one) => [
    element("bdi", visible(one.id)), ": ", element("bdi", worded(one.has ?? "readers differ", desk.state, visible)),
    ", not ", element("bdi", worded(one.manifest, desk.state, visible)),
  ]);
  list("manifest-missing", missing, "not in the folder, passed over", (line) => [visible(line)]);
  byId("manifest-take").hidden = found.new === 0;
  byId("manifest-preview").hidden = false;
  say(byId("manifest-new").textContent);
}

function list(id, rows, what, parts) {
  const box = byId(id);
  box.hidden = rows.length === 0;
  box.querySelector("summary").textContent = `Of ${counted(rows.length)}: ${what}`;
  const more = rows.length > SHOWN ? [element("li", `and ${rows.length - SHOWN} more`)] : [];
  box.querySelector("ul").replaceChildren(...rows.slice(0, SHOWN).map((one) => {
    const row = element("li");
    row.append(...parts(one));
    return row;
  }), ...more);
}

export async function takeManifest() {
  if (chosen === null || locked()) return;
  const done = await attempt(async () => {
    const found = await askJson("POST", "weckd/labels", { ...chosen, take: true });
    say(`Saved: ${found.new} labels of ${quoted(found.source)}.`);
  }, takeManifest, "Not saved. ");
  if (!done) return;
  forget();
  byId("manifest").value = "";
  poll();
  await next();
}
