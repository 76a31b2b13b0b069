"use strict";

// Where the text runs from right to left, what comes next lies on the left.
const other = { ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" };
const isMirrored = document.documentElement.dir === "rtl";

// Arrow keys step from version to version, unless somebody is typing or scrolling.
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) {
    return;
  }
  if (event.target.closest("input, select, textarea, [role=region]")) {
    return;
  }
  const key = (isMirrored && other[event.key]) || event.key;
  const link = document.querySelector(`a[data-es-key="${CSS.escape(key)}"]`);
  if (link) {
    event.preventDefault();
    link.click();
  }
});

for (const button of document.querySelectorAll("button[data-es-copy]")) {
  if (!navigator.clipboard) {
    continue; // only on pages that came over TLS or from this machine
  }
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.esCopy).textContent);
    button.textContent = button.dataset.esDone;
  });
}
