// Links that open a query with its variables. They are in the fragment, which browsers don't send.

export function linkTo(query, variables) {
  const parts = new URLSearchParams({ query, ...(variables && { variables }) });
  return `${location.origin}${location.pathname}#${parts}`;
}

// What the address of this page opens; the address is plain afterwards, so that loading it again opens nothing twice.
export function linked() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const query = parts.get("query");
  if (query) history.replaceState(null, "", location.pathname + location.search);
  return query ? { query, variables: parts.get("variables") ?? "" } : undefined;
}
