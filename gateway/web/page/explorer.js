"use strict";
// The token is kept in the header editor and sent in requests. It is never part of a URL, and is stored in local storage
// only if the user turns that on in GraphiQL's settings.

const root = document.getElementById("explorer") || document.getElementById("plain");
const config = JSON.parse(root.dataset.config);
const cost = document.getElementById("cost");

function showCost(result) {
  const extensions = result && result.extensions;
  if (!extensions || !extensions.cost) return;
  const { upstreamCalls, cacheHits, coalesced, estimatedUpstreamCalls } = extensions.cost;
  const { oldestAge, stale } = extensions.freshness || { oldestAge: 0, stale: false };
  cost.textContent =
    `Upstream calls: ${upstreamCalls} (estimated maximum: ${estimatedUpstreamCalls}) · ` +
    `cache hits: ${cacheHits} · coalesced: ${coalesced} · oldest data: ${oldestAge} s${stale ? ", stale" : ""}`;
  cost.className = stale ? "stale" : "";
}

async function execute(parameters, headers) {
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
  const result = await response.json();
  showCost(result);
  return result;
}

function headersFor(token) {
  return JSON.stringify({ Authorization: `Bearer ${token || "<your token>"}` }, null, 2);
}

// GraphiQL keeps headers out of its tabs but not out of its history. Keys that may contain a token stay in this page's
// memory, unless the user has chosen to persist headers.
const PRIVATE = new Set(["graphiql:queries", "graphiql:favorites", "graphiql:headers"]);
const memory = new Map();
const isPrivate = (key) => PRIVATE.has(key) && localStorage.getItem("graphiql:shouldPersistHeaders") !== "true";
const storage = {
  getItem: (key) => (isPrivate(key) ? (memory.get(key) ?? null) : localStorage.getItem(key)),
  setItem: (key, value) => (isPrivate(key) ? memory.set(key, value) : localStorage.setItem(key, value)),
  removeItem: (key) => (memory.delete(key), localStorage.removeItem(key)),
  clear: () => (memory.clear(), localStorage.clear()),
  get length() {
    return localStorage.length + memory.size;
  },
};

function showGraphiQL() {
  const headers = headersFor(config.token);
  const tabs = config.examples.map(({ query, variables }) => ({ query, variables, headers }));
  const fetcher = (parameters, options) => execute(parameters, (options && options.headers) || {});
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
      const result = await execute(parameters, { Authorization: `Bearer ${field("token").value}` });
      field("result").textContent = JSON.stringify(result, null, 2);
    } catch (error) {
      field("result").textContent = String(error);
    }
  });
}

if (root.id === "explorer") showGraphiQL();
else showPlainPage();
