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

// Who labels.

import { desk, say } from "./desk.js";
import { poll } from "./poll.js";
import { byId, speakAs } from "./server.js";

function callMe(name) {
  if (name === null) localStorage.removeItem("person");
  else localStorage.setItem("person", name);
  speakAs(name);
  return poll();
}

export async function onName(event) {
  event.preventDefault();
  await callMe(byId("person").value.trim());
  if (desk.offline === null) {
    byId("screen").focus();
    return;
  }
  const { text } = desk.offline; // what is wrong with the name, in the server's words
  await callMe(null);
  say(text);
}

export async function onChange() {
  byId("person").value = desk.state.person;
  await callMe(null);
  byId("person").focus();
}
