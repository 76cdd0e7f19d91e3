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

// The stage in training.

import { attempt, desk, locked, say } from "./desk.js";
import { poll } from "./poll.js";
import { ask, askJson } from "./server.js";

export async function train() {
  if (locked() || desk.state === null || desk.state.training.running) return;
  await attempt(async () => {
    const training = await askJson("POST", "weckd/train");
    if (desk.state.stages.length >= training.stage) return; // the answer comes late: it is done
    desk.state.training = training;
    say(`Stage ${training.stage} is being trained. You can go on labeling.`);
  }, train, "No stage was started. ");
  poll();
}

export async function stop() {
  await attempt(async () => {
    await ask("DELETE", "weckd/train");
    say("The stage stops at the end of its epoch.");
  }, stop, "Not stopped. ");
  poll();
}
