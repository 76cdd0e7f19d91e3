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

// What the server knows, asked again and again.

import { desk, say, WINDOW } from "./desk.js";
import { isNews, next, predict } from "./images.js";
import { ended, makeAnswers, makeClasses } from "./panels.js";
import { askJson, quoted, visible } from "./server.js";
import { speakOf, worded } from "./words.js";

let polled = 0;
let timer;

function take(found) {
  const before = desk.state;
  desk.state = found;
  if (JSON.stringify(before?.classes) !== JSON.stringify(found.classes)) makeClasses(found);
  speakOf(found.item_level);
  if (before === null) makeAnswers(Object.keys(found.answers));
  document.title = `Label: ${visible(found.bundle)}`;
  const other = found.last_labels.find(({ id }) => id === desk.current?.id);
  if (other !== undefined && desk.current.ready && !desk.busy && other.label !== desk.current.label) {
    desk.current.label = other.label;
    desk.current.draft = undefined;
    say(`${quoted(other.id)} has just got the label ${worded(other.label, found)} elsewhere.`);
  }
  const news = ended(before, found);
  if (news !== null) {
    say(news);
    predict();
  }
}

export async function poll() {
  const mine = ++polled;
  clearTimeout(timer);
  let found = null;
  try {
    found = await askJson("GET", `weckd/state?window=${WINDOW}`);
  } catch (error) {
    desk.offline = { text: visible(error.message), retry: poll };
  }
  if (mine !== polled) return; // a later one has been asked
  if (found !== null) {
    const recovered = desk.offline !== null;
    desk.offline = null;
    take(found);
    if (!desk.busy && desk.pending === null) {
      if (recovered && desk.failure !== null) desk.failure.retry();
      else if (desk.current === null && desk.failure === null && isNews(found)) next();
    }
  }
  desk.render();
  timer = setTimeout(poll, desk.state?.training.running ? 1000 : 5000);
}
