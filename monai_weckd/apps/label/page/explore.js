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

// The page of all images: a map, and lists.

import * as gallery from "./gallery.js";
import * as chart from "./map.js";
import { askJson, byId, element, speakAs, visible } from "./server.js";
import { noun, speakOf } from "./words.js";

const MOST = 1000; // images that the server takes at a time
const PLAIN = { label: "label", predicted: "prediction", disagreement: "disagreement" };

let data = null;
let colored = null;
let chosen = []; // points

// What fails says so, and how to try again.
async function attempt(action) {
  try {
    await action();
    byId("error").hidden = true;
    return true;
  } catch (error) {
    byId("error-text").textContent = visible(error.message);
    byId("error").hidden = false;
    byId("retry").onclick = () => attempt(action);
    return false;
  }
}

function showColors() {
  colored = chart.colors(data, byId("color").value);
  const counts = new Array(colored.groups.length).fill(0);
  for (const group of colored.groupOf) counts[group] += 1;
  byId("legend").replaceChildren(...colored.groups.flatMap((group, place) => {
    if (counts[place] === 0) return [];
    const button = element("button", "", { type: "button" });
    button.setAttribute("aria-pressed", "false");
    button.append(patch(group.color), element("bdi", visible(group.name)), ` ${counts[place]}`);
    button.addEventListener("click", () => alone(place, button));
    const row = element("li");
    row.append(button);
    return [row];
  }));
  chart.show(data, colored);
}

function patch(color) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: "100%", height: "100%", fill: color })) box.setAttribute(name, value);
  made.setAttribute("aria-hidden", "true");
  made.append(box);
  return made;
}

function alone(place, button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  for (const other of byId("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(on));
  colored.groups.forEach((group, number) => {
    group.hidden = on && number !== place;
  });
  chart.show(data, colored);
}

function setChosen(points) {
  chosen = [...points];
  chart.choose(chosen.length === 0 ? null : points);
  byId("chosen").hidden = chosen.length === 0;
  const some = chosen.length > MOST ? `; the first ${MOST} can be queued` : "";
  byId("chosen-text").textContent = `${chosen.length} ${noun(2)} chosen${some}`;
}

async function load() {
  data = await askJson("GET", "weckd/map");
  speakOf(data.item_level);
  gallery.setWords(data);
  showColors();
  setChosen(new Set());
  await showQueue(askJson("GET", "weckd/queue"));
}

async function showQueue(asked) {
  const { queued } = await asked;
  byId("queued").textContent = queued === 0 ? "Your queue is empty" : `Your queue: ${queued}`;
  byId("empty").hidden = queued === 0;
}

function queue(ids) {
  return attempt(async () => {
    if (ids.length === 0) return;
    const { person, asks_name: asksName } = await askJson("GET", "weckd/state");
    if (asksName && person === null) throw new Error("Enter your name on the page for labels first: a queue is a person's.");
    await showQueue(askJson("POST", "weckd/queue", { ids: ids.slice(0, MOST) }));
    if (byId("show").value === "queued") await gallery.showList();
  });
}

function list(more = false) {
  return attempt(() => gallery.showList(more));
}

async function like(id) {
  gallery.setLike(id);
  if (await list()) byId("list-title").focus();
}

function pointed(place, x, y) {
  const hint = byId("hint");
  hint.hidden = place === undefined;
  if (place === undefined) return;
  hint.textContent = describe(place);
  const right = x > byId("plane").clientWidth / 2;
  Object.assign(hint.style, { left: right ? "auto" : `${x + 12}px`, top: `${y + 12}px` });
  hint.style.right = right ? `${byId("plane").clientWidth - x + 12}px` : "auto";
}

function describe(place) {
  const by = byId("color").value;
  return `${visible(data.ids[place])}; ${PLAIN[by]}: ${visible(colored.groups[colored.groupOf[place]].name)}`;
}

byId("color").addEventListener("change", showColors);
byId("forget").addEventListener("click", () => setChosen(new Set()));
byId("queue-chosen").addEventListener("click", () => queue(chosen.map((place) => data.ids[place])));
byId("queue-all").addEventListener("click", () => attempt(async () => {
  const { images } = await gallery.find(0, MOST);
  await queue(images.map(({ id }) => id));
}));
byId("empty").addEventListener("click", () => attempt(() => showQueue(askJson("DELETE", "weckd/queue"))));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") attempt(load);
});
chart.start({
  lassoed: (points) => {
    setChosen(points);
    chart.setLasso(false);
  },
  clicked: (place) => place !== undefined && like(data.ids[place]),
  pointed,
});
gallery.start({ list, like, queue });
speakAs(localStorage.getItem("person"));
attempt(load);
const wanted = new URLSearchParams(location.search).get("like");
if (wanted === null) list();
else like(wanted);
