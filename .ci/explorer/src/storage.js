// What GraphiQL stores in the browser. Headers may contain a token, so they are left out, like any text with the token.
const HEADERS = "graphiql:headers";
const HISTORIES = ["graphiql:queries", "graphiql:favorites"];

export function storageWithoutTokens(credentials) {
  return {
    getItem: (key) => localStorage.getItem(key),
    setItem(key, value) {
      const stored = HISTORIES.includes(key) ? JSON.stringify(JSON.parse(value), withoutHeaders) : value;
      if (key !== HEADERS && !credentials.isIn(stored)) localStorage.setItem(key, stored);
    },
    removeItem: (key) => localStorage.removeItem(key),
    clear: () => localStorage.clear(),
    get length() {
      return localStorage.length;
    },
  };
}

function withoutHeaders(name, value) {
  return name === "headers" ? undefined : value;
}
