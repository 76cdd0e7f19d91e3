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

// A class or finding that there is not yet: all windows get its button, and the chain learns it.

import { attempt, desk, locked, say } from "./desk.js";
import { poll } from "./poll.js";
import { askJson, byId, quoted, visible } from "./server.js";

let refused = null; // a name that is nearly another one: entered once more, it is meant

export async function addClass(event) {
  event?.preventDefault();
  const name = byId("new-class").value.trim();
  if (name === "" || locked()) return;
  const done = await attempt(async () => {
    try {
      told(await askJson("POST", "weckd/class", { name, sure: name === refused }));
    } catch (error) {
      if (error.status !== 400 && error.status !== 409) throw error;
      refused = name;
      say(visible(error.message));
      return;
    }
    refused = null;
    byId("new-class").value = "";
  }, addClass, "Not added. ");
  if (done) await poll();
}

function told({ name, added, classes }) {
  const place = classes.indexOf(name);
  const key = place < 9 ? `, key ${place + 1}` : "";
  say(added ? `Added: ${quoted(name)}${key}.` : `${quoted(name)} is there already${key}.`);
  if (desk.current !== null) byId("screen").focus({ preventScroll: true }); // so that its key works at once
}
