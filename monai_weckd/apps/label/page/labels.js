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

// What somebody says of an image: labels, skips, and taking them back.

import { attempt, desk, locked, nameless, remember, remembered, say } from "./desk.js";
import { findNext, idle, next, open } from "./images.js";
import { saved } from "./panels.js";
import { poll } from "./poll.js";
import { ask, askJson, place, quoted } from "./server.js";
import { noun, worded } from "./words.js";

export async function give(label) {
  if (nameless()) return;
  if (desk.busy || !desk.current?.ready) {
    const early = "Too early: no label was given. Wait until the image is shown.";
    if (desk.pending === null) say(idle() ? "No image is shown: no label was given." : early);
    return;
  }
  await save(desk.current, label);
}

async function save(image, label) {
  if (desk.busy) return;
  // of which the answer alone may have been lost
  const tried = desk.pending?.id === image.id ? desk.pending.label : undefined;
  desk.pending = { id: image.id, label };
  image.settle ??= false;
  say("Saving …");
  const done = await attempt(
    async () => {
      const found = (await askJson("PUT", `weckd/label/${place(image.id)}`, { label, settle: image.settle })).previous;
      const previous = found === tried ? image.label : found;
      desk.pending = null;
      remember("given", [...remembered("given"), { id: image.id, label, previous }]);
      say(saved(image.id, label, previous, image.label, desk.state));
      image.label = label;
    },
    () => save(image, label),
    `Not saved: ${quoted(image.id)} as ${worded(label, desk.state)}. `,
  );
  if (!done) {
    say("");
    return;
  }
  poll();
  await next();
}

export async function skip() {
  if (nameless() || desk.busy) return;
  let told = null; // what the server is told
  if (desk.current === null) {
    remember("skipped", []);
  } else if (!desk.current.label || desk.pending !== null) {
    remember("skipped", [...remembered("skipped"), desk.current.id]);
    remember("given", [...remembered("given"), { id: desk.current.id, label: null }]);
    say(`Skipped: ${quoted(desk.current.id)} has no new label.`);
    told = desk.current.id;
  }
  desk.pending = null;
  const go = () =>
    attempt(async () => {
      if (told !== null) await tell("POST", told);
      told = null;
      await findNext();
    }, go);
  await go();
}

async function tell(method, skipped) {
  await ask(method, `weckd/skip/${place(skipped)}`).catch((error) => {
    if (error.status !== 404) throw error; // the file is gone
  });
}

export async function undo() {
  if (locked()) return;
  const given = remembered("given");
  const last = given.pop();
  if (last === undefined) {
    say("Nothing to undo in this window.");
    return;
  }
  const done = await attempt(async () => {
    if (last.batch !== undefined) await takeBackAll(last);
    else if (last.label === null) {
      await tell("DELETE", last.id);
      remember("skipped", remembered("skipped").filter((id) => id !== last.id));
    } else await takeBack(last);
    remember("given", given);
  }, undo);
  if (!done) return;
  poll();
  open(last.id ?? last.batch[0], "you have taken back what you did");
}

// A batch is taken back as a whole, but for labels that have been changed since.
async function takeBackAll({ batch, label }) {
  let kept = 0;
  for (const id of batch) {
    const now = await askJson("GET", `weckd/image/${place(id)}`).catch((error) => {
      if (error.status !== 404) throw error;
      return {};
    });
    if (now.label === label && now.mine) await ask("DELETE", `weckd/label/${place(id)}`);
    else if (now.label) kept += 1;
  }
  const rest = kept > 0 ? ` ${kept} have been changed elsewhere, and stay.` : "";
  say(`Taken back: ${batch.length - kept} ${noun(2)} of a batch have no label.${rest}`);
}

async function takeBack({ id, label, previous }) {
  const now = await askJson("GET", `weckd/image/${place(id)}`).catch((error) => {
    if (error.status !== 404) throw error;
    return {}; // the file is gone, so that there is nothing to take back
  });
  if (now.label !== label) {
    say(`${quoted(id)} stays as it is: its label has been changed elsewhere.`);
  } else if (label && !now.mine) {
    say(`${quoted(id)} stays as it is: its label is now that of somebody else.`);
  } else if (previous === null) {
    await ask("DELETE", `weckd/label/${place(id)}`);
    say(`Taken back: ${quoted(id)} has no label.`);
  } else {
    await ask("PUT", `weckd/label/${place(id)}`, { label: previous, undo: true });
    say(`Taken back: ${quoted(id)} is ${worded(previous, desk.state)} again.`);
  }
}
