// Looks again from time to time; once the pages are back, so is the one that was asked for.
"use strict";
(() => {
  const place = document.querySelector("[data-again]");
  const look = async () => {
    const answer = await fetch(place.dataset.again);
    if (answer.status !== 503) return location.replace(place.dataset.again);
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-again]");
    if (found && found.innerHTML !== place.innerHTML) place.replaceChildren(...found.childNodes);
  };
  setInterval(() => look().catch(() => {}), 1000 * place.dataset.seconds);
})();
