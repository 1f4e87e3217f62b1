"use strict";
// The token is kept in this page's memory and sent in requests. It is never part of a URL, nor of local storage.

const root = document.getElementById("explorer") || document.getElementById("plain");
const config = JSON.parse(root.dataset.config);
const cost = document.getElementById("cost");
const PLACEHOLDER = "Bearer <your token>";
// Milliseconds without a change of the token until the schema is fetched again.
const REFETCH_AFTER = 500;
// The token of all tabs that still have the placeholder: the last one that was typed into any tab.
let authorization = config.token ? `Bearer ${config.token}` : undefined;

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
      ...withToken(headers),
    },
    body: JSON.stringify(parameters),
  });
  const result = await response.json();
  showCost(result);
  return result;
}

// Without a token there is no header, since anyone may read the schema if the gateway is configured so.
function withToken({ Authorization, ...headers }) {
  const sent = Authorization === PLACEHOLDER ? authorization : Authorization;
  return sent === undefined ? headers : { ...headers, Authorization: sent };
}

// The token in the text of a header editor; undefined while that is incomplete or has the placeholder.
function authorizationIn(text) {
  let headers;
  try {
    headers = JSON.parse(text);
  } catch {
    return undefined;
  }
  const name = Object.keys(headers ?? {}).find((each) => each.toLowerCase() === "authorization");
  return name && headers[name] !== PLACEHOLDER ? headers[name] : undefined;
}

// GraphiQL keeps headers out of its tabs but not out of its history, so keys that may contain a token are kept in memory.
const PRIVATE = new Set(["graphiql:queries", "graphiql:favorites", "graphiql:headers"]);
const memory = new Map();
const storage = {
  getItem: (key) => (PRIVATE.has(key) ? (memory.get(key) ?? null) : localStorage.getItem(key)),
  setItem: (key, value) => (PRIVATE.has(key) ? memory.set(key, value) : localStorage.setItem(key, value)),
  removeItem: (key) => (memory.delete(key), localStorage.removeItem(key)),
  clear: () => (memory.clear(), localStorage.clear()),
  get length() {
    return localStorage.length + memory.size;
  },
};

function showGraphiQL() {
  const app = ReactDOM.createRoot(root);
  const headers = JSON.stringify({ Authorization: authorization ?? PLACEHOLDER }, null, 2);
  const tabs = config.examples.map(({ query, variables }) => ({ query, variables, headers }));
  let current; // the fetcher
  let hasSchema = false;
  let schemaError; // as GraphiQL shows it in place of a response
  let timer;

  const newFetcher = () => async function fetcher(parameters, options) {
    const result = execute(parameters, options?.headers ?? {});
    if (parameters.operationName !== "IntrospectionQuery") return result;
    const schema = await result.catch((error) => ({ errors: [{ message: String(error) }] }));
    if (fetcher !== current) return new Promise(() => {}); // GraphiQL would show an old token's error
    if (!schema.data) schemaError = JSON.stringify(schema, null, 2);
    return schema;
  };

  function onEditHeaders(text) {
    const typed = authorizationIn(text);
    if (typed === undefined || typed === authorization) return;
    authorization = typed;
    clearTimeout(timer);
    if (!hasSchema) timer = setTimeout(render, REFETCH_AFTER);
  }

  function onSchemaChange() {
    hasSchema = true;
    const shown = root.querySelector(".result-window .CodeMirror")?.CodeMirror;
    if (shown && shown.getValue() === schemaError) shown.setValue("");
  }

  // GraphiQL fetches the schema for each new fetcher.
  function render() {
    current = newFetcher();
    app.render(
      React.createElement(GraphiQL, {
        fetcher: current,
        onEditHeaders,
        onSchemaChange,
        defaultTabs: tabs,
        defaultHeaders: headers,
        defaultEditorToolsVisibility: "headers",
        shouldPersistHeaders: false,
        storage,
        inputValueDeprecation: true,
      }),
    );
  }

  render();
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
