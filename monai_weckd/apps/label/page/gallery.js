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

// Lists of images with their thumbnails, some at a time.

import { askJson, byId, element, place, visible } from "./server.js";
import { counted } from "./words.js";

const A_TIME = 60;
const PERCENT = new Intl.NumberFormat("en", { style: "percent" });
const FILTERS = { show: "show", label: "label-of", predicted: "predicted-of", who: "person-of" };

let like = null; // an image's id, while images like it are shown
let shown = 0;
let asked = 0; // lists that have been asked for: an answer to an earlier one comes too late
let act = {};

function wish(first, count) {
  const chosen = Object.entries(FILTERS).map(([name, id]) => [name, byId(id).value]).filter(([, value]) => value !== "");
  return new URLSearchParams([...chosen, ["first", first], ["count", count]]);
}

// Ask for a list, or for its next images.
export function find(first, count) {
  if (like !== null) return askJson("GET", `weckd/alike/${place(like)}?count=${count}`);
  return askJson("GET", `weckd/gallery?${wish(first, count)}`);
}

export async function showList(more = false) {
  const mine = ++asked;
  const answer = await find(more ? shown : 0, A_TIME);
  if (mine !== asked) return;
  byId("alike").hidden = like === null;
  byId("alike-name").textContent = visible(like ?? "");
  byId("filters").hidden = like !== null;
  if (answer.people) setOptions("person-of", answer.people);
  const cards = answer.images.map(card);
  if (more) byId("images").append(...cards);
  else byId("images").replaceChildren(...cards);
  shown = (more ? shown : 0) + cards.length;
  byId("count").textContent = counted(answer.total);
  byId("more").hidden = shown >= answer.total;
  byId("queue-all").disabled = answer.total === 0 || byId("show").value === "unreadable";
}

function setOptions(id, names) {
  const box = byId(id);
  const known = [...box.options].slice(1).map((option) => option.value);
  if (JSON.stringify(known) === JSON.stringify(names)) return;
  const { value } = box;
  box.replaceChildren(box.options[0], ...names.map((name) => element("option", visible(name), { value: name })));
  box.value = names.includes(value) ? value : "";
}

export function setWords({ words, predictable }) {
  setOptions("label-of", words);
  setOptions("predicted-of", words.slice(0, predictable));
}

function line(...parts) {
  const made = element("p");
  made.append(...parts);
  return made;
}

function card(image) {
  const made = element("li");
  const name = element("bdi", visible(image.id));
  if (image.reason === null) {
    made.append(element("img", "", { src: `weckd/thumbnail/${place(image.id)}`, alt: "", loading: "lazy", decoding: "async" }));
  }
  made.append(line(name));
  if (image.reason !== null) {
    made.append(line(element("bdi", visible(image.reason))));
    return made;
  }
  if (image.label !== null) {
    const by = image.who === null ? [] : [", by ", element("bdi", visible(image.who))];
    made.append(line("Label: ", element("bdi", visible(image.label)), ...by));
  }
  if (image.predicted !== null) {
    const text = line("Model: ", element("bdi", visible(image.predicted)), ` ${PERCENT.format(image.probability)}`);
    if (image.contradicted) text.className = "contradicted";
    made.append(text);
  }
  const buttons = [["More like this", () => act.like(image.id)], ["Label it next", () => act.queue([image.id])]].map(([words, go]) => {
    const button = element("button", words, { type: "button" });
    button.setAttribute("aria-label", `${words}: ${visible(image.id)}`);
    button.addEventListener("click", go);
    return button;
  });
  const row = line(...buttons);
  row.className = "row";
  made.append(row);
  return made;
}

export function setLike(id) {
  like = id;
}

// Listen; `actions` has `list`, to show a list, `like`, to show images like one, and `queue`, to queue images.
export function start(actions) {
  act = actions;
  byId("filters").addEventListener("change", () => act.list());
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => act.list(true));
  byId("not-alike").addEventListener("click", () => act.like(null));
}
