// What is quicker with a script: Ctrl+K leads to the search, and ids are copied by a button.
"use strict";
(() => {
  addEventListener("keydown", (event) => {
    const field = document.querySelector("input[type=search]");
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || !field) return;
    event.preventDefault();
    field.select();
  });
  if (!navigator.clipboard) return; // without TLS there is none, but on this machine
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
})();
