"use strict";

// In a right-to-left language the next version is on the left.
const mirrored = { ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" };
const isMirrored = document.documentElement.dir === "rtl";

// Arrow keys step from version to version, unless the user is typing or scrolling.
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) {
    return;
  }
  if (event.target.closest("input, select, textarea, [role=region]")) {
    return;
  }
  const key = (isMirrored && mirrored[event.key]) || event.key;
  const link = document.querySelector(`a[data-es-key="${CSS.escape(key)}"]`);
  if (link) {
    event.preventDefault();
    link.click();
  }
});

for (const button of document.querySelectorAll("button[data-es-copy]")) {
  if (!navigator.clipboard) {
    continue; // browsers offer the clipboard only over TLS and on localhost
  }
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.esCopy).textContent);
    button.textContent = button.dataset.esDone;
  });
}
