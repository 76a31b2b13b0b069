// Keep a page up to date with the events that it is built from: on each event, fetch the
// page again and replace the parts whose text has changed. Without this script, or
// without a server that can push, the page stays as it was when it was opened.
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
    return; // the page being fetched may lack this event: the loop fetches again
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
    // No response: the next event triggers another attempt.
  } finally {
    isBusy = false;
  }
}

function show(page) {
  let isNew = false;
  for (const part of area.querySelectorAll("[data-live]")) {
    const found = page.getElementById(part.id);
    // Compare the text only, because forms get a new token each time.
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
  // A page in the back/forward cache needs no connection, and is outdated when restored.
  addEventListener("pagehide", () => sources.forEach((source) => source.close()));
  addEventListener("pageshow", (event) => {
    if (event.persisted) {
      listen();
      refresh();
    }
  });
}
