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

// What the server says of labels and chain, as it is shown beside the image.

import { byId, element, quoted, visible } from "./server.js";
import { noun, worded } from "./words.js";

const PERCENT = new Intl.NumberFormat("en", { style: "percent" });

function figure(value) {
  return value === null || value === undefined ? "–" : value.toFixed(3);
}

// Buttons of the classes or findings; their values are the names.
export function makeClasses({ classes: names, findings }) {
  const buttons = names.map((name, index) => {
    const button = element("button", "", { type: "button", className: "class", value: name });
    const shortcut = index < 9 ? String(index + 1) : "";
    if (shortcut) button.setAttribute("aria-keyshortcuts", shortcut);
    button.append(
      element("span", "", { className: "bar" }),
      ...(findings ? [element("span", "", { className: "limit" })] : []),
      element("kbd", shortcut || "–"),
      element("bdi", visible(name), { className: "what" }),
      element("span", "", { className: "probability" }),
      element("span", "", { className: "note count" }),
      ...(findings ? [element("span", "", { className: "said" })] : []),
    );
    return button;
  });
  byId("classes").replaceChildren(...buttons);
  byId("label-title").textContent = findings ? "Findings" : "Class";
  byId("adding-title").textContent = findings ? "Add a finding" : "Add a class";
  for (const id of ["of-findings", "more-keys"]) byId(id).hidden = !findings;
  byId("look-alikes").hidden = findings;
}

// Buttons of what may be said in place of a class; their keys are their first letters.
export function makeAnswers(names) {
  byId("answers").replaceChildren(...names.map((name) => {
    const button = element("button", "", { type: "button", className: "answer", value: name });
    button.setAttribute("aria-keyshortcuts", name[0]);
    const words = name[0].toUpperCase() + name.slice(1);
    button.append(element("kbd", name[0]), ` ${words} `, element("span", "", { className: "note count" }));
    return button;
  }));
}

export function showAnswers({ answers }, current, locked) {
  [...byId("answers").children].forEach((button, index) => {
    const [name, count] = Object.entries(answers)[index];
    button.querySelector(".count").textContent = count || "";
    button.setAttribute("aria-pressed", String(current?.label === name));
    button.setAttribute("aria-disabled", String(locked));
  });
}

export function showClasses({ classes, labels }, current, locked) {
  [...byId("classes").children].forEach((button, index) => {
    const probability = current?.probabilities?.[index];
    button.querySelector(".bar").style.width = `${100 * (probability ?? 0)}%`;
    button.querySelector(".probability").textContent = probability === undefined ? "" : PERCENT.format(probability);
    const count = labels[classes[index]];
    button.querySelector(".count").textContent = count === 1 ? "1 label" : `${count} labels`;
    button.setAttribute("aria-pressed", String(current?.label === classes[index]));
    button.setAttribute("aria-disabled", String(locked));
  });
}

export function showProgress(state, asked, open) {
  const { images, unreadable: bad, budget, label_budget: told, last_labels: last } = state;
  const aside = images.set_aside ? `, ${images.set_aside} set aside` : "";
  const disputed = images.disputed ? `, ${images.disputed} disputed` : "";
  const shared = images.shared ? `, ${images.shared} with shares of several classes` : "";
  const unreadable = images.unreadable ? `, ${images.unreadable} cannot be read` : "";
  byId("labeled-text").textContent = `${images.labeled} of ${images.total} ${noun(2)} labeled${shared}${aside}${disputed}${unreadable}`;
  Object.assign(byId("labeled"), { max: images.total, value: images.labeled });
  const limit = asked ?? told;
  const rest = limit === null ? "" : budget < limit ? ` of ${limit}` : ` of ${limit}: all used`;
  byId("budget-text").textContent = `Label budget: ${budget}${rest}`;
  byId("budget").hidden = limit === null;
  if (limit !== null) Object.assign(byId("budget"), { max: limit, value: Math.min(budget, limit) });
  byId("bad").hidden = bad.length === 0;
  showBad(bad);
  byId("last").hidden = last.length === 0;
  showLast(last, state, open);
}

function showBad(bad) {
  byId("bad-images").replaceChildren(...bad.map(({ id, reason }) => {
    const row = element("li");
    row.append(element("bdi", visible(id)), ": ", element("bdi", visible(reason)));
    return row;
  }));
}

function showLast(last, state, open) {
  const key = JSON.stringify(last);
  const list = byId("last-labels");
  if (list.dataset.shown === key) return; // who has the focus keeps it
  list.dataset.shown = key;
  list.replaceChildren(...last.map(({ id, label, who }) => {
    const button = element("button", "", { type: "button" });
    button.append(element("bdi", visible(id)), ": ", element("bdi", worded(label, state, visible)));
    if (who !== null) button.append(", by ", element("bdi", visible(who)));
    button.addEventListener("click", () => open(id));
    const row = element("li");
    row.append(button);
    return row;
  }));
}

export function showChain({ stages, training }) {
  byId("train").setAttribute("aria-disabled", String(training.running));
  byId("training-row").hidden = !training.running;
  byId("training-text").textContent =
    `Stage ${training.stage}: epoch ${training.epoch} of ${training.epochs || "…"}`;
  Object.assign(byId("epochs"), { max: training.epochs || 1, value: training.epoch });
  byId("training-error").hidden = training.running || training.error === null;
  byId("training-error").textContent = `Stage ${training.stage} ended early. ${visible(training.error ?? "")}`;
  byId("stages").hidden = stages.length === 0;
  if (stages.length === 0) return;
  const { metric } = stages.at(-1);
  byId("metric").textContent = metric === null ? "Validation" : named(metric);
  byId("caption").textContent =
    metric === null
      ? "No labels are held out for validation: every stage is accepted"
      : "Validation, on your labels: with few of them a difference means little";
  byId("rows").replaceChildren(...stages.map(stageRow));
}

function stageRow(stage) {
  const row = element("tr");
  const heading = element("th", stage.stage);
  heading.scope = "row";
  const verdict = element("td", stage.accepted ? "✓ accepted" : "✗ rejected");
  verdict.className = stage.accepted ? "accepted" : "rejected";
  row.append(
    heading, element("td", stage.labeled), element("td", figure(stage.value)), element("td", figure(stage.previous)),
    verdict,
  );
  return row;
}

function named(metric) {
  return metric.replace(/^val_/, "").replaceAll("_", " ").replace("auc", "AUC");
}

// What has come of a training since the state before, as a sentence; null where none has ended.
export function ended(before, { stages, training }) {
  if (before === null || training.running) return null;
  const { running, stage } = before.training;
  if (!running && stages.length <= before.stages.length) return null; // fewer: a server of another chain
  if (running && stages.length < stage) {
    return training.error === null ? `Stage ${stage} was interrupted. Train it again.` : `Stage ${stage} ended early.`;
  }
  const done = stages.at(-1);
  const verdict = done.accepted ? "accepted" : "rejected, the student before stays";
  if (done.value === null) return `Stage ${done.stage} ${verdict}.`;
  const earlier =
    done.previous === null ? "" : `, before ${figure(done.previous)}, tolerance ${figure(done.tolerance)}`;
  return `Stage ${done.stage} ${verdict}: ${named(done.metric)} ${figure(done.value)}${earlier}.`;
}

// What was saved, as a sentence; an overwrite says so.
export function saved(id, label, previous, known, state) {
  const what = label in state.answers ? `set aside as ${quoted(label)}` : worded(label, state);
  if (previous === null || previous === label) return `Saved: ${quoted(id)} is ${what}.`;
  const whose = previous === known ? "" : ", given meanwhile elsewhere";
  return `Saved: ${quoted(id)} is ${what} instead of ${worded(previous, state)}${whose}.`;
}
