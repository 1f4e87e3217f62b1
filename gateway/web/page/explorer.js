"use strict";
// The explorer's own script. The token lives in the header editor and in requests: never in a URL, and in local storage
// only if somebody switches that on in GraphiQL's settings.

const root = document.getElementById("explorer") || document.getElementById("plain");
const config = JSON.parse(root.dataset.config);
const cost = document.getElementById("cost");

function tellCost(answer) {
  const told = answer && answer.extensions;
  if (!told || !told.cost) return;
  const { upstreamCalls, cacheHits, coalesced, estimatedUpstreamCalls } = told.cost;
  const { oldestAge, stale } = told.freshness || { oldestAge: 0, stale: false };
  cost.textContent =
    `Upstream calls: ${upstreamCalls} (at most ${estimatedUpstreamCalls} expected) · ` +
    `from the cache: ${cacheHits} · shared: ${coalesced} · oldest part: ${oldestAge} s${stale ? ", stale" : ""}`;
  cost.className = stale ? "stale" : "";
}

async function ask(parameters, headers) {
  const response = await fetch(config.endpoint, {
    method: "POST",
    headers: {
      Accept: "application/graphql-response+json, application/json;q=0.9",
      "Content-Type": "application/json",
      "X-Gateway-Cost": "report",
      ...headers,
    },
    body: JSON.stringify(parameters),
  });
  const answer = await response.json();
  tellCost(answer);
  return answer;
}

function headersFor(token) {
  return JSON.stringify({ Authorization: `Bearer ${token || "<your token>"}` }, null, 2);
}

// GraphiQL keeps headers out of its tabs but not out of its history. What may hold a token stays in this page's memory,
// unless the person has asked for headers to be kept.
const PRIVATE = new Set(["graphiql:queries", "graphiql:favorites", "graphiql:headers"]);
const memory = new Map();
const staysHere = (key) => PRIVATE.has(key) && localStorage.getItem("graphiql:shouldPersistHeaders") !== "true";
const storage = {
  getItem: (key) => (staysHere(key) ? (memory.get(key) ?? null) : localStorage.getItem(key)),
  setItem: (key, value) => (staysHere(key) ? memory.set(key, value) : localStorage.setItem(key, value)),
  removeItem: (key) => (memory.delete(key), localStorage.removeItem(key)),
  clear: () => (memory.clear(), localStorage.clear()),
  get length() {
    return localStorage.length + memory.size;
  },
};

function showGraphiQL() {
  const headers = headersFor(config.token);
  const tabs = config.examples.map(({ query, variables }) => ({ query, variables, headers }));
  const fetcher = (parameters, options) => ask(parameters, (options && options.headers) || {});
  ReactDOM.createRoot(root).render(
    React.createElement(GraphiQL, {
      fetcher,
      defaultTabs: tabs,
      defaultHeaders: headers,
      defaultEditorToolsVisibility: "headers",
      shouldPersistHeaders: false,
      storage,
      inputValueDeprecation: true,
    }),
  );
}

function showPlainPage() {
  const field = (id) => document.getElementById(id);
  field("token").value = config.token || "";
  config.examples.forEach(({ name }, index) => field("example").append(new Option(name, String(index))));
  const choose = () => {
    const { query, variables } = config.examples[Number(field("example").value)];
    field("query").value = query;
    field("variables").value = variables || "{}";
  };
  field("example").addEventListener("change", choose);
  choose();
  field("run").addEventListener("click", async () => {
    try {
      const parameters = { query: field("query").value, variables: JSON.parse(field("variables").value || "{}") };
      const answer = await ask(parameters, { Authorization: `Bearer ${field("token").value}` });
      field("answer").textContent = JSON.stringify(answer, null, 2);
    } catch (error) {
      field("answer").textContent = String(error);
    }
  });
}

if (root.id === "explorer") showGraphiQL();
else showPlainPage();
