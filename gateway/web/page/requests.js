// Requests to the gateway with the caller's token, for both pages.

// The result of an operation. After a 401 a login's token is replaced, and the request is sent once more.
export async function post(endpoint, credentials, parameters, headers) {
  const ownToken = Object.keys(headers).some((name) => name.toLowerCase() === "authorization");
  const send = (authorization) =>
    fetch(endpoint, {
      method: "POST",
      headers: {
        Accept: "application/graphql-response+json, application/json;q=0.9",
        "Content-Type": "application/json",
        ...(authorization && { Authorization: authorization }),
        ...headers,
      },
      body: JSON.stringify(parameters),
    });
  let authorization = ownToken ? undefined : await credentials.authorization();
  let response = await send(authorization);
  if (response.status === 401 && !ownToken && (await credentials.replace(authorization))) {
    authorization = await credentials.authorization();
    response = await send(authorization);
  }
  // The schema may be given to a token that only the fleet API would reject.
  const isProof = response.status === 401 || parameters.operationName !== "IntrospectionQuery";
  if (!ownToken && isProof) credentials.judge(authorization, response.status);
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`The server responded with ${response.status} and without JSON.`);
  }
}

// What an answer cost and how old its data is, by the gateway's extensions.
export function costLine({ cost, freshness } = {}) {
  if (!cost) return "";
  const { upstreamCalls, cacheHits, coalesced, estimatedUpstreamCalls } = cost;
  if (upstreamCalls === undefined) return `Not run. Upstream calls: at most ${estimatedUpstreamCalls}`;
  const age = freshness ? ` · oldest data: ${Math.round(freshness.oldestAge)} s${freshness.stale ? ", stale" : ""}` : "";
  return (
    `Upstream calls: ${upstreamCalls} (estimated maximum: ${estimatedUpstreamCalls}) · ` +
    `cache hits: ${cacheHits} · coalesced: ${coalesced}${age}`
  );
}
