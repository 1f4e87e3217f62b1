// The page: its filter is the `where` of every operation, its list a page of a Relay connection.

import { ask, Failure, hasToken, POINTS, TOTALS, useToken, VEHICLE, VEHICLES } from "./api.js";
import { Chart } from "./chart.js";

const PAGE_SIZE = 25;
const POINTS_MAX = 10_000;
const PAUSE = 250; // milliseconds without a change of the filter until it is asked
const CHARGE = "state_of_charge_or_fuel_level_in_percent";

const GARAGE = { operationStatus: { in: ["GARAGE"] } };
const RENTED = { rentalStatus: { in: ["IN_RENTAL"] } };
const FREE = { rentalStatus: { in: ["NOT_IN_RENTAL"] } };
// What a vehicle's statuses mean, and the filter that says the same.
const STATUSES = {
  free: { name: "Free", where: { ...FREE, not: GARAGE } },
  rented: { name: "Rented", where: { ...RENTED, not: GARAGE } },
  garage: { name: "In the garage", where: GARAGE },
  unknown: { name: "No information", where: { not: { or: [GARAGE, RENTED, FREE] } } },
};
const ORDERS = {
  plate: [{ field: "LICENSE_PLATE" }],
  charge: [{ stateProperty: CHARGE }],
  contact: [{ field: "LAST_CONTACT_AT" }],
};

const at = (id) => document.getElementById(id);
const form = at("filter");
const number = new Intl.NumberFormat("en");
const chart = new Chart(at("chart"), Object.keys(STATUSES), { onSelect: select, onMove: moved });

let asking = new AbortController(); // what is being asked; a new filter aborts it
let timer;
let isFitted = false;
let vehicles; // the connection in the list
let offset = 0; // of its first vehicle
let selected = null;
let retry = search;

function statusOf(operation, rental) {
  if (operation === "GARAGE") return "garage";
  return { IN_RENTAL: "rented", NOT_IN_RENTAL: "free" }[rental] ?? "unknown";
}

const statusOfNode = (node) => statusOf(node.operationStatus?.value, node.rentalStatus?.value);
const isOffline = (node) => node.lifeStatus?.value === "OFFLINE";
const positionOf = (node) => node.latestState?.position?.value;

function filter() {
  const { plate, brand, status, contact, charge, "in-view": inView } = form.elements;
  const all = [
    plate.value.trim() && { masterData: { licensePlate: { contains: plate.value.trim() } } },
    brand.value && { masterData: { brand: { eq: brand.value } } },
    status.value && STATUSES[status.value].where,
    contact.value && { lifeStatus: { in: [contact.value] } },
    charge.value > 0 && { state: { property: CHARGE, gte: Number(charge.value) } },
    inView.checked && { position: { box: chart.box() } },
  ].filter(Boolean);
  return all.length ? { and: all } : null;
}

// Asks for the totals, the first page and the points of a new filter or order.
function search() {
  if (!hasToken()) return undefined;
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const where = filter();
  const began = performance.now();
  retry = search;
  at("found").setAttribute("aria-busy", "true");
  return guarded(signal, async () => {
    const [totals, page, points] = await Promise.all([
      ask(TOTALS, { where }, signal),
      ask(VEHICLES, { where, orderBy: ORDERS[at("order").value], first: PAGE_SIZE }, signal),
      pointsOf(where, signal),
    ]);
    chart.show(points.found);
    if (!isFitted && points.found.length) {
      isFitted = true;
      chart.fit();
    }
    showTotals(totals.data.fleet);
    showPage(page.data.vehicles, 0);
    showSummary(totals.data.fleet, page.data.vehicles.totalCount, points, [totals, page, ...points.answers], began);
    at("found").removeAttribute("aria-busy");
  }, showNothing);
}

// Removes what answered another filter.
function showNothing() {
  chart.show([]);
  for (const id of ["totals", "list", "range"]) at(id).replaceChildren();
  for (const id of ["previous", "next"]) at(id).disabled = true;
  at("summary").textContent = "No answer";
  at("found").removeAttribute("aria-busy");
}

// Another page of the list: `window` is first and after, or last and before.
function turn(window, newOffset) {
  const { signal } = asking;
  retry = () => turn(window, newOffset);
  return guarded(signal, async () => {
    const variables = { where: filter(), orderBy: ORDERS[at("order").value], ...window };
    const { data } = await ask(VEHICLES, variables, signal);
    showPage(data.vehicles, newOffset);
    at("list").scrollTop = 0;
  });
}

// All vehicles with a position, page by page. A vehicle that a change lets appear twice counts once.
async function pointsOf(where, signal) {
  const placed = { position: { isNull: false } };
  const variables = { where: where ? { and: [where, placed] } : placed, after: null };
  const found = new Map();
  const answers = [];
  let connection;
  do {
    answers.push(await ask(POINTS, variables, signal));
    connection = answers.at(-1).data.vehicles;
    for (const { node } of connection.edges) {
      found.set(node.id, { id: node.id, ...positionOf(node), kind: statusOfNode(node), isOffline: isOffline(node) });
    }
    variables.after = connection.pageInfo.endCursor;
  } while (connection.pageInfo.hasNextPage && found.size < POINTS_MAX);
  return { found: [...found.values()], total: connection.totalCount, answers };
}

function showTotals({ brands, counts }) {
  const { brand } = form.elements;
  if (brand.options.length === 1) {
    const names = brands.map(({ key: [name] }) => name).filter(Boolean);
    brand.append(...names.sort().map((name) => new Option(name, name)));
  }
  const totals = Object.fromEntries(Object.keys(STATUSES).map((status) => [status, 0]));
  let offline = 0;
  for (const { key: [operation, rental, life], count } of counts) {
    totals[statusOf(operation, rental)] += count;
    if (life === "OFFLINE") offline += count;
  }
  const rows = Object.entries(totals).map(([status, count]) => total(status, STATUSES[status].name, count));
  at("totals").replaceChildren(...rows, total("offline", "of these offline", offline));
}

function total(className, name, count) {
  const row = make("li", "", className);
  row.append(make("span", "", "swatch"), make("span", name), make("strong", number.format(count)));
  return row;
}

function showSummary({ vehicleCount, completeAsOf }, totalCount, { found, total: placed }, answers, began) {
  const calls = answers.reduce((sum, { cost }) => sum + cost.upstreamCalls, 0);
  const isStale = answers.some(({ freshness }) => freshness?.stale);
  const parts = [
    totalCount > placed && `${number.format(totalCount - placed)} without a position`,
    found.length < placed && `the first ${number.format(found.length)} on the map`,
    `as of ${new Date(completeAsOf).toLocaleTimeString()}${isStale ? ", being refreshed" : ""}`,
    `${number.format(calls)} upstream calls, ${number.format(Math.round(performance.now() - began))} ms`,
  ];
  at("summary").replaceChildren(
    make("strong", `${number.format(totalCount)} of ${number.format(vehicleCount)} vehicles`),
    ["", ...parts.filter(Boolean)].join(" · "),
  );
}

function showPage(connection, newOffset) {
  vehicles = connection;
  const { edges, pageInfo, totalCount } = connection;
  offset = Math.max(0, newOffset);
  at("list").start = offset + 1;
  at("list").replaceChildren(...edges.map(({ node }) => item(node)));
  at("previous").disabled = !pageInfo.hasPreviousPage;
  at("next").disabled = !pageInfo.hasNextPage;
  at("range").textContent = edges.length
    ? `${number.format(offset + 1)}–${number.format(offset + edges.length)} of ${number.format(totalCount)}`
    : "No vehicle matches.";
  mark();
}

function item(node) {
  const { brand, model, licensePlate } = node.masterData ?? {};
  const level = node.latestState?.stateOfChargeOrFuelLevelInPercent?.value;
  const status = statusOfNode(node);
  const button = make("button", "");
  button.type = "button";
  button.dataset.id = node.id;
  button.append(
    make("span", "", `swatch ${status}${isOffline(node) ? " offline" : ""}`),
    make("strong", licensePlate ?? node.vehicleId),
    make("span", [brand, model].filter(Boolean).join(" ") || "No master data", "model"),
    make("span", STATUSES[status].name + (isOffline(node) ? ", offline" : ""), "status"),
    make("span", typeof level === "number" ? `${level} %` : "–", "level"),
  );
  button.addEventListener("click", () => {
    const position = positionOf(node);
    if (position) chart.moveTo(position);
    select(node.id);
    at("map").scrollIntoView({ block: "nearest" }); // on a phone the list is below the map
  });
  const row = make("li", "");
  row.append(button);
  return row;
}

// Shows a vehicle's details, which its global id finds.
function select(id) {
  selected = id;
  chart.select(id);
  mark();
  return guarded(undefined, async () => {
    const { data } = await ask(VEHICLE, { id });
    if (id === selected) showVehicle(data.node);
  });
}

function mark() {
  for (const button of at("list").querySelectorAll("button")) {
    if (button.dataset.id === selected) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function showVehicle(node) {
  const panel = at("vehicle");
  panel.hidden = false;
  if (!node) return panel.replaceChildren(make("p", "This vehicle is no longer in the fleet."));
  const { brand, model, licensePlate, customName } = node.masterData ?? {};
  const { position, stateOfChargeOrFuelLevelInPercent: level, mileageInKilometers: mileage } = node.latestState ?? {};
  const time = (text) => text && new Date(text).toLocaleString();
  const facts = {
    Status: STATUSES[statusOfNode(node)].name + (isOffline(node) ? ", offline" : ""),
    "Charge or fuel": typeof level?.value === "number" && `${level.value} %`,
    Mileage: typeof mileage?.value === "number" && `${number.format(mileage.value)} km`,
    "Last contact": time(node.lastContactAt),
    Position: position?.value && `${position.value.lat.toFixed(4)}, ${position.value.lon.toFixed(4)}`,
    Tags: node.tags?.join(", "),
  };
  const list = make("dl", "");
  for (const [name, value] of Object.entries(facts)) {
    if (!value) continue;
    const pair = make("div", "");
    pair.append(make("dt", name), make("dd", value));
    list.append(pair);
  }
  const title = [licensePlate ?? node.vehicleId, [brand, model].filter(Boolean).join(" "), customName];
  const close = make("button", "Close");
  close.type = "button";
  close.addEventListener("click", deselect);
  panel.replaceChildren(make("h2", title.filter(Boolean).join(" · ")), close, list);
}

function deselect() {
  selected = null;
  at("vehicle").hidden = true;
  chart.select(null);
  mark();
  at("chart").focus();
}

// Runs what asks, and shows its failure. An aborted question has been replaced by another.
async function guarded(signal, run, onFailure = () => {}) {
  try {
    await run();
    at("problem").hidden = true;
  } catch (failure) {
    if (signal?.aborted) return;
    if (!(failure instanceof Failure)) throw failure;
    if (failure.startsOver && retry !== search) {
      search();
      return;
    }
    onFailure();
    if (failure.code === "UNAUTHENTICATED") {
      at("sign-in").hidden = false;
      at("token").focus();
    }
    const [text, button] = at("problem").children;
    text.textContent = failure.text;
    button.hidden = failure.code === "UNAUTHENTICATED" || !failure.retryable;
    at("problem").hidden = false;
  }
}

function make(name, text, className = "") {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(search, PAUSE);
}

function moved() {
  if (form.elements["in-view"].checked) later();
}

form.elements.status.append(...Object.entries(STATUSES).map(([value, { name }]) => new Option(name, value)));
form.addEventListener("input", () => {
  form.elements.level.value = `${form.elements.charge.value} %`;
  later();
});
form.addEventListener("reset", () => setTimeout(search)); // the fields are reset after the event
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
at("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(at("token").value);
  at("token").value = "";
  at("sign-in").hidden = true;
  search();
});
at("problem").querySelector("button").addEventListener("click", () => retry());
at("previous").addEventListener("click", () =>
  turn({ last: PAGE_SIZE, before: vehicles.pageInfo.startCursor }, offset - PAGE_SIZE));
at("next").addEventListener("click", () =>
  turn({ first: PAGE_SIZE, after: vehicles.pageInfo.endCursor }, offset + vehicles.edges.length));
at("zoom-in").addEventListener("click", () => chart.zoom(1.6));
at("zoom-out").addEventListener("click", () => chart.zoom(1 / 1.6));
at("fit").addEventListener("click", () => chart.fit());

if (hasToken()) {
  search();
} else {
  at("summary").textContent = "Enter a token to see its vehicles.";
  at("sign-in").hidden = false;
}
