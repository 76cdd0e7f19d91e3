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

// The page: one image after the other. All that it knows comes from /weckd/state and /weckd/next, but for what has
// been skipped and given in this window, which the browser keeps until the window is closed.

import { ended, makeAnswers, makeClasses, saved, showAnswers, showChain, showClasses, showProgress } from "./panels.js";
import { showReaders } from "./readers.js";
import { ask, askJson, byId, place, quoted, speakAs, visible } from "./server.js";
import * as viewer from "./viewer.js";

const KEPT = 200;
const asked = Number(new URLSearchParams(location.search).get("budget"));
const limit = Number.isInteger(asked) && asked > 0 ? asked : null;

const WINDOW = (sessionStorage.window ??= Array.from(crypto.getRandomValues(new Uint32Array(4)), String).join("-"));

let state = null; // what the server said last
let current = null; // {id, reason, probabilities, label, ready}
let coming = null; // {id, loaded}: the image after it
let busy = false;
let pending = null; // {id, label} that the server has not confirmed
let failure = null; // {text, retry} of what somebody did
let offline = null; // likewise of the state
let idleAt = null; // unlabeled images when there was nothing to show
let polled = 0;
let timer;

function remembered(name) {
  return JSON.parse(sessionStorage.getItem(name) ?? "[]");
}

function remember(name, list) {
  sessionStorage.setItem(name, JSON.stringify(list.slice(-KEPT)));
}

function say(text) {
  byId("status").textContent = text;
}

function render() {
  const trouble = failure ?? offline;
  byId("error").hidden = trouble === null;
  byId("error-text").textContent = trouble?.text ?? "";
  if (state === null) return;
  byId("ask").hidden = !unnamed();
  byId("you").hidden = state.person === null;
  byId("you-name").textContent = visible(state.person ?? "");
  byId("change").hidden = !state.asks_name;
  showClasses(state, current, busy || unnamed() || !current?.ready);
  showAnswers(state, current, busy || unnamed() || !current?.ready);
  showProgress(state, limit, open);
  showReaders(state, open);
  showChain(state);
  const onlySkipped = current === null && remembered("skipped").length > 0 && left(state) > 0;
  byId("skip-text").textContent = onlySkipped ? "Show skipped again" : current?.label ? "Next" : "Skip";
}

// One thing at a time. What fails says so and waits for somebody to retry it; nothing else is begun before a label that
// could not be saved is saved or skipped.
async function attempt(action, retry, prefix = "") {
  busy = true;
  render();
  try {
    await action();
    failure = null;
    return true;
  } catch (error) {
    failure = { text: prefix + visible(error.message), retry };
    return false;
  } finally {
    busy = false;
    render();
  }
}

// Whether the server wants a name that it has not got.
function unnamed() {
  return state !== null && state.asks_name && state.person === null;
}

function nameless() {
  if (!unnamed()) return false;
  say("Enter your name first: each label says who gave it.");
  byId("person").focus();
  return true;
}

function locked() {
  if (nameless()) return true;
  if (pending !== null) say("Retry, choose again, or skip: the last label is not saved.");
  return busy || pending !== null;
}

async function display(suggestion) {
  const { id, reason } = suggestion;
  current = { ...suggestion, ready: false };
  byId("name").textContent = visible(id);
  byId("reason").textContent = `Why this one: ${visible(reason)}`;
  viewer.hide("Loading …");
  const loaded = (coming?.id === id ? await coming.loaded : null) ?? (await viewer.load(id));
  coming = null;
  viewer.show(loaded);
  byId("announcement").textContent = `New image: ${visible(id)}`;
  Object.assign(current, { label: loaded.info.label, ready: true });
  if (!current.probabilities && !loaded.info.blind) predict();
}

// The last student's opinion, where it did not come with the image; without it, there is no bar.
async function predict() {
  const image = current;
  if (image === null || !state?.stages.some((stage) => stage.accepted)) return;
  const answer = await askJson("GET", `weckd/predict/${place(image.id)}`).catch(() => null);
  if (answer !== null) image.probabilities = answer.prediction.map((one) => one.score);
  render();
}

function open(id, reason = "you want to see it again", settle = false) {
  if (locked()) return;
  attempt(() => display({ id, reason, settle, probabilities: null }), () => open(id, reason, settle));
}

async function next() {
  await attempt(findNext, next);
}

async function findNext() {
  const skipped = remembered("skipped");
  let found = [];
  try {
    const answer = await askJson("POST", "weckd/next", { window: WINDOW, count: 2, without: skipped });
    found = [answer, ...answer.more];
  } catch (error) {
    if (error.status !== 404) throw error; // 404: none is left
  }
  if (found.length === 0) {
    idle(skipped.length);
    return;
  }
  await display(found[0]);
  if (found.length > 1) coming = { id: found[1].id, loaded: viewer.load(found[1].id).catch(() => null) };
}

// How many images this person could be shown.
function left(known) {
  return known === null ? null : known.images.unlabeled + known.images.waiting;
}

function idle(skipped) {
  current = null;
  idleAt = left(state);
  byId("name").textContent = "No image left";
  byId("reason").textContent = "";
  viewer.hide(skipped ? "Only skipped images are left without a label." : "Each image has a label.");
}

async function give(label) {
  if (nameless()) return;
  if (busy || !current?.ready) {
    if (pending === null) say("Too early: no label was given. Wait until the image is shown.");
    return;
  }
  await save(current, label);
}

async function save(image, label) {
  if (busy) return;
  const tried = pending?.id === image.id ? pending.label : undefined; // of which the answer alone may have been lost
  pending = { id: image.id, label };
  image.settle ??= false;
  say("Saving …");
  const done = await attempt(
    async () => {
      const found = (await askJson("PUT", `weckd/label/${place(image.id)}`, { label, settle: image.settle })).previous;
      const previous = found === tried ? image.label : found;
      pending = null;
      remember("given", [...remembered("given"), { id: image.id, label, previous }]);
      say(saved(image.id, label, previous, image.label, state.answers));
      image.label = label;
    },
    () => save(image, label),
    `Not saved: ${quoted(image.id)} as ${quoted(label)}. `,
  );
  if (!done) {
    say("");
    return;
  }
  poll();
  await next();
}

async function skip() {
  if (nameless() || busy) return;
  let told = null; // what the server is told
  if (current === null) {
    remember("skipped", []);
  } else if (!current.label || pending !== null) {
    remember("skipped", [...remembered("skipped"), current.id]);
    remember("given", [...remembered("given"), { id: current.id, label: null }]);
    say(`Skipped: ${quoted(current.id)} has no new label.`);
    told = current.id;
  }
  pending = null;
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

async function undo() {
  if (locked()) return;
  const given = remembered("given");
  const last = given.pop();
  if (last === undefined) {
    say("Nothing to undo in this window.");
    return;
  }
  const done = await attempt(async () => {
    if (last.label === null) {
      await tell("DELETE", last.id);
      remember("skipped", remembered("skipped").filter((id) => id !== last.id));
    } else await takeBack(last);
    remember("given", given);
  }, undo);
  if (!done) return;
  poll();
  open(last.id, "you have taken back what you did");
}

async function takeBack({ id, label, previous }) {
  const now = await askJson("GET", `weckd/image/${place(id)}`).catch((error) => {
    if (error.status !== 404) throw error;
    return {}; // the file is gone, so that there is nothing to take back
  });
  if (now.label !== label) {
    say(`${quoted(id)} stays as it is: its label has been changed elsewhere.`);
  } else if (previous === null) {
    await ask("DELETE", `weckd/label/${place(id)}`);
    say(`Taken back: ${quoted(id)} has no label.`);
  } else {
    await ask("PUT", `weckd/label/${place(id)}`, { label: previous, undo: true });
    say(`Taken back: ${quoted(id)} is ${quoted(previous)} again.`);
  }
}

async function train() {
  if (locked() || state === null || state.training.running) return;
  await attempt(async () => {
    const training = await askJson("POST", "weckd/train");
    if (state.stages.length >= training.stage) return; // the answer comes late: it is done
    state.training = training;
    say(`Stage ${training.stage} is being trained. You can go on labeling.`);
  }, train, "No stage was started. ");
  poll();
}

async function stop() {
  await attempt(async () => {
    await ask("DELETE", "weckd/train");
    say("The stage stops at the end of its epoch.");
  }, stop, "Not stopped. ");
  poll();
}

function take(found) {
  const before = state;
  state = found;
  if (JSON.stringify(before?.classes) !== JSON.stringify(found.classes)) makeClasses(found.classes, give);
  if (before === null) makeAnswers(Object.keys(found.answers), give);
  document.title = `Label: ${visible(found.bundle)}`;
  const other = found.last_labels.find(({ id }) => id === current?.id);
  if (other !== undefined && current.ready && !busy && other.label !== current.label) {
    current.label = other.label;
    say(`${quoted(other.id)} has just got the label ${quoted(other.label)} elsewhere.`);
  }
  const news = ended(before, found);
  if (news !== null) {
    say(news);
    predict();
  }
}

async function poll() {
  const mine = ++polled;
  clearTimeout(timer);
  let found = null;
  try {
    found = await askJson("GET", `weckd/state?window=${WINDOW}`);
  } catch (error) {
    offline = { text: visible(error.message), retry: poll };
  }
  if (mine !== polled) return; // a later one has been asked
  if (found !== null) {
    const recovered = offline !== null;
    offline = null;
    take(found);
    if (!busy && pending === null) {
      if (recovered && failure !== null) failure.retry();
      else if (current === null && failure === null && left(found) !== idleAt) next();
    }
  }
  render();
  timer = setTimeout(poll, state?.training.running ? 1000 : 5000);
}

function callMe(name) {
  if (name === null) localStorage.removeItem("person");
  else localStorage.setItem("person", name);
  speakAs(name);
  return poll();
}

async function onName(event) {
  event.preventDefault();
  await callMe(byId("person").value.trim());
  if (offline === null) {
    byId("screen").focus();
    return;
  }
  const { text } = offline; // what is wrong with the name, in the server's words
  await callMe(null);
  say(text);
}

async function onChange() {
  byId("person").value = state.person;
  await callMe(null);
  byId("person").focus();
}

function onKey(event) {
  const { key, target } = event;
  if (target === byId("person")) return;
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && key.toLowerCase() === "z") {
    event.preventDefault();
    if (!event.repeat) undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!target.matches("input[type=range]") && viewer.key(key)) {
    event.preventDefault();
    return;
  }
  if (event.repeat || !byId("keys").checked || state === null) return; // a key that is held labels one image
  const isClass = /^[1-9]$/.test(key) && Number(key) <= state.classes.length;
  const word = isClass ? state.classes[Number(key) - 1] : Object.keys(state.answers).find(([first]) => first === key);
  const action = word === undefined ? { s: skip, u: undo, t: train }[key.toLowerCase()] : () => give(word);
  if (action === undefined) return;
  event.preventDefault(); // it may move the focus to where a key would be typed
  action();
}

byId("ask").addEventListener("submit", onName);
byId("change").addEventListener("click", onChange);
byId("skip").addEventListener("click", skip);
byId("undo").addEventListener("click", undo);
byId("train").addEventListener("click", train);
byId("stop").addEventListener("click", stop);
byId("retry").addEventListener("click", () => {
  if (!busy) (failure ?? offline)?.retry();
});
byId("keys").checked = localStorage.getItem("keys") !== "off";
byId("keys").addEventListener("change", () => localStorage.setItem("keys", byId("keys").checked ? "on" : "off"));
document.addEventListener("keydown", onKey);
window.addEventListener("beforeunload", (event) => {
  if (pending !== null) event.preventDefault(); // asks whether to leave with a label that is not saved
});
viewer.start((error, retry) => {
  if (pending !== null) return; // an unsaved label comes first
  failure = error === null ? null : { text: visible(error.message), retry };
  render();
});
speakAs(localStorage.getItem("person"));
poll();
