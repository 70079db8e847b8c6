// The menu closes as menus do: by a click elsewhere, and by Escape.
"use strict";
(() => {
  const menu = document.querySelector(".menu");
  if (!menu) return;
  addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
})();
