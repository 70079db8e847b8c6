"use strict";
// Everything is put into the page as text, never as markup: ids and reasons are what others chose.
const KIND = { open: "open", registered: "open", "not allowed": "shut", "not found in partner system": "shut" };
const $ = (id) => document.getElementById(id);
let latest = 0;
let latestAtDesk = 0;
let laidOut = false;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function post(what, content) {
  const answer = await fetch("town/" + what, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content),
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.errorMessage || "status " + answer.status);
  return said;
}

function layOut(town) {
  $("url").textContent = town.url;
  for (const select of document.querySelectorAll('select[name="studio"]')) {
    select.replaceChildren(...town.studios.map((studio) => new Option(studio.name, studio.id)));
  }
  $("members").replaceChildren(...town.members.map((id) => new Option(id, id)));
  laidOut = true;
}

function showStudios(town) {
  const list = $("studios");
  if (list.children.length !== town.studios.length) {
    list.replaceChildren(...town.studios.map((studio) => {
      const item = element("li");
      const about = element("div");
      about.append(element("strong", studio.name), element("span", "", "dim"));
      const close = element("button", "all out", "quiet");
      close.setAttribute("aria-label", "all out of " + studio.name);
      close.type = "button";
      close.title = "Check out whoever is still in " + studio.name;
      close.addEventListener("click", () => act("close", { studio: studio.id }, $("closed")));
      item.append(about, close);
      return item;
    }));
  }
  town.studios.forEach((studio, place) => {
    const facts = [studio.time, studio.tenant, studio.inside + "\u00a0in"];
    if (town.webhook_url) facts.push("webhooks\u00a0" + (studio.webhooks ? "on" : "off"));
    if (studio.test) facts.push("test");
    if (studio.paused) facts.push("paused");
    list.children[place].querySelector("span").textContent = facts.join(" · ");
  });
}

function showTaps(town) {
  const newest = town.taps.length ? town.taps[0].number : 0;
  if (newest === latest) return;
  latest = newest;
  $("none").hidden = newest > 0;
  $("taps").replaceChildren(...town.taps.map((tap) => {
    const row = element("tr");
    row.append(
      element("td", tap.time), element("td", tap.studio), element("td", tap.aggregator_id + " · " + tap.customer_id),
      element("td", tap.desk, KIND[tap.desk] || "error"), element("td", tap.reason || tap.note || ""),
      element("td", tap.ms.toFixed(1), "ms"),
    );
    return row;
  }));
  const counts = Object.entries(town.desks).map(([desk, count]) => count + " " + desk);
  $("counts").textContent = counts.join(" · ");
}

function showDesks(town) {
  const newest = town.enrolled.length ? town.enrolled[0].number : 0;
  if (newest === latestAtDesk) return;
  latestAtDesk = newest;
  $("desks").hidden = false;
  $("enrolled").replaceChildren(...town.enrolled.map((one) => {
    const row = element("tr");
    const became = one.customer_id && one.aggregator_id + " · " + one.customer_id;
    row.append(
      element("td", one.time), element("td", one.studio), element("td", one.text),
      element("td", one.desk, KIND[one.desk] || "error"), element("td", became || one.note || ""),
      element("td", one.ms.toFixed(1), "ms"),
    );
    return row;
  }));
  const counts = Object.entries(town.enrolments).map(([desk, count]) => count + " " + desk);
  $("enrolments").textContent = counts.join(" · ");
}

async function look() {
  try {
    const town = await (await fetch("town")).json();
    if (!laidOut) layOut(town);
    showStudios(town);
    showTaps(town);
    showDesks(town);
    $("away").hidden = true;
  } catch {
    $("away").hidden = false;
  }
}

async function act(what, content, output) {
  try {
    const said = await post(what, content);
    output.textContent = said.done;
  } catch (error) {
    output.textContent = error.message;
  }
  look();
}

function fields(form) {
  return Object.fromEntries(new FormData(form));
}

$("tap").addEventListener("submit", async (event) => {
  event.preventDefault();
  const desk = $("desk");
  try {
    const tap = await post("tap", fields(event.target));
    const facts = [tap.ms.toFixed(1) + " ms", tap.http_status && "status " + tap.http_status, tap.reason, tap.note];
    desk.replaceChildren(element("span", tap.desk, KIND[tap.desk] || "error"),
      element("small", facts.filter(Boolean).join(" · ")));
  } catch (error) {
    desk.replaceChildren(element("span", error.message, "error"));
  }
  look();
});

$("register").addEventListener("submit", async (event) => {
  event.preventDefault();
  const output = event.target.querySelector("output");
  try {
    const said = await post("register", fields(event.target));
    const name = [said.member.firstName, said.member.lastName].filter(Boolean).join(" ") || "The member";
    const born = said.member.dateOfBirth ? ", born " + said.member.dateOfBirth + "," : "";
    output.textContent = said.customer_id
      ? name + born + " is now customer " + said.customer_id + " (" + said.ms.toFixed(1) + " ms)"
      : [said.desk, said.note].filter(Boolean).join(" · ");
  } catch (error) {
    output.textContent = error.message;
  }
  look();
});

$("customer").addEventListener("submit", (event) => {
  event.preventDefault();
  const { studio, customer_id, action } = fields(event.target);
  const output = event.target.querySelector("output");
  if (action === "leave") act("leave", { studio, customer_id }, output);
  else act("remove", { studio, customer_id, event: action }, output);
});

look();
setInterval(look, 1000);
