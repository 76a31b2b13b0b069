// A page follows the events that it is made from: at each it is fetched again, and the
// parts that read otherwise than before are exchanged. Without this script, or
// without a server that can push, the page is what it was when it was opened.
"use strict";

const area = document.querySelector("[data-events]");
const said = document.getElementById("live-status");
let sources = [];
let isBusy = false;
let isDue = false;

function listen() {
  sources = area.dataset.events.split(" ").map((url) => {
    const source = new EventSource(url);
    source.onmessage = refresh;
    source.addEventListener("reset", refresh);
    return source;
  });
}

async function refresh() {
  isDue = true;
  if (isBusy) {
    return; // the page that is on its way may be older: fetch once more
  }
  isBusy = true;
  try {
    while (isDue) {
      isDue = false;
      const answer = await fetch(location.href);
      if (answer.ok) {
        const parser = new DOMParser();
        show(parser.parseFromString(await answer.text(), "text/html"));
      }
    }
  } catch {
    // No answer: the next event tries again.
  } finally {
    isBusy = false;
  }
}

function show(page) {
  let isNew = false;
  for (const part of area.querySelectorAll("[data-live]")) {
    const found = page.getElementById(part.id);
    // By the text: forms have a new token each time.
    if (found && found.textContent !== part.textContent) {
      const hadFocus = part.contains(document.activeElement);
      part.replaceChildren(...found.childNodes);
      if (hadFocus) {
        area.querySelector("h1").focus();
      }
      isNew = true;
    }
  }
  if (isNew) {
    const last = area.querySelector(".timeline li:last-child .what");
    said.textContent = `This page was updated. ${last ? last.textContent : ""}`;
  }
}

if (area && "EventSource" in window) {
  listen();
  // A page that is kept to go back to needs no connection, and is old when it is shown.
  addEventListener("pagehide", () => sources.forEach((source) => source.close()));
  addEventListener("pageshow", (event) => {
    if (event.persisted) {
      listen();
      refresh();
    }
  });
}
