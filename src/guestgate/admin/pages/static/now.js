// The list stands still for whoever points at it or is in it by keyboard, and the tab's title says what is wrong.
"use strict";
(() => {
  const list = document.getElementById("coming"), held = document.getElementById("held");
  const cut = document.getElementById("cut"), title = document.title;
  let pointed = false, missed = null;

  const holds = () => pointed || list.contains(document.activeElement);
  const look = () => {
    held.hidden = !holds();
    if (holds() || missed === null) return;
    list.innerHTML = missed;
    missed = null;
  };
  list.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (!holds()) return;
    missed = event.detail.data;
    event.preventDefault();
  });
  // A finger points only while it touches.
  list.addEventListener("pointerenter", (event) => { pointed = event.pointerType === "mouse"; look(); });
  list.addEventListener("pointerleave", () => { pointed = false; look(); });
  list.addEventListener("focusin", look);
  list.addEventListener("focusout", () => setTimeout(look));

  const state = () => {
    const wrong = document.querySelector(".banner:not([hidden]), .pill.bad, .pill.standing_in, .pill.not_ready, .pill.silent");
    document.title = wrong ? `⚠ ${title}` : title;
  };
  addEventListener("htmx:sseMessage", state);
  addEventListener("htmx:sseError", () => { cut.hidden = false; state(); });
  addEventListener("htmx:sseOpen", () => { cut.hidden = true; state(); });
  state();
})();
