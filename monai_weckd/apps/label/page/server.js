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

// How the page asks the server, and how it shows what came from elsewhere.

export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// A page whose address holds a password may not ask for anything. The browser knows the password by now.
if (new URL(document.baseURI).username && location.href !== document.baseURI) location.replace(location.href);

let person = null; // the name that somebody gave on this page

export function speakAs(name) {
  person = name;
}

// An image's id is a path: its slashes stay.
export function place(id) {
  return id.split("/").map(encodeURIComponent).join("/");
}

export async function ask(method, address, body) {
  const options = { method, cache: "no-store", signal: AbortSignal.timeout(60000) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  if (person !== null) options.headers = { ...options.headers, "X-Weckd-Person": encodeURIComponent(person) };
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Refusal("The server does not answer. Check that it runs, then retry.", 0);
  }
  if (!answer.ok) {
    const content = await answer.json().catch(() => ({}));
    throw new Refusal(content.detail ?? `The server answered ${answer.status}.`, answer.status);
  }
  return answer;
}

export async function askJson(method, address, body) {
  return (await ask(method, address, body)).json();
}

// A name may hold marks that turn the text after it around, or that cannot be seen: these are spelled out.
export function visible(text) {
  return String(text).replace(/[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, (mark) =>
    `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);
}

// A name within a sentence, isolated so that a right-to-left one leaves the sentence as it is.
export function quoted(text) {
  return `\u2068${visible(text)}\u2069`;
}

// Text only: whatever a name holds, it never becomes an element.
export function element(tag, text = "", properties = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  return Object.assign(made, properties);
}

export function byId(id) {
  return document.getElementById(id);
}
