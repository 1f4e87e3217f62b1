// Apollo Client, urql and Relay each page through a fleet, with their own paging and stores.
// Arguments: client (apollo | urql | relay), way (forward | backward | both), URL, token, and as JSON what selects and
// orders vehicles: `where` and `orderBy`. Prints the ids in its store.
const [client, way, url, token, asked = "{}"] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}` };
const SIZE = 60;
const FILTER = { where: null, orderBy: null, ...JSON.parse(asked) };
const NOTHING = { first: null, after: null, last: null, before: null, ...FILTER };
const PAGE = `query Page(
  $first: Int, $after: String, $last: Int, $before: String, $where: VehicleFilter, $orderBy: [VehicleOrder!]
) {
  vehicles(first: $first, after: $after, last: $last, before: $before, where: $where, orderBy: $orderBy) {
    edges { cursor node { id vehicleId __typename } __typename }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor __typename }
    __typename
  }
}`;

async function plainly(variables) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { ...headers, "content-type": "application/json" },
    body: JSON.stringify({ query: PAGE, variables }),
  });
  return (await answer.json()).data.vehicles;
}

// Where paging begins: at an end, or in the middle, after the 110th vehicle.
async function start() {
  if (way === "backward") return { last: SIZE };
  return way === "both" ? { first: SIZE, after: (await plainly({ first: 110 })).pageInfo.endCursor } : { first: SIZE };
}

// Pages on by the page info in the store: `pageInfo()` reads it, `more(variables)` requests another page.
async function pageThrough(pageInfo, more) {
  for (let page = 0; way !== "backward" && pageInfo().hasNextPage; page++) {
    if (page > 50) throw new Error("endless paging forward");
    await more({ first: SIZE, after: pageInfo().endCursor });
  }
  for (let page = 0; way !== "forward" && pageInfo().hasPreviousPage; page++) {
    if (page > 50) throw new Error("endless paging backward");
    await more({ last: SIZE, before: pageInfo().startCursor });
  }
}

async function apollo() {
  const { ApolloClient, HttpLink, InMemoryCache, gql } = await import("@apollo/client/core/index.js");
  const { relayStylePagination } = await import("@apollo/client/utilities/index.js");
  const cache = new InMemoryCache({ typePolicies: { Query: { fields: { vehicles: relayStylePagination(["where", "orderBy"]) } } } });
  const apolloClient = new ApolloClient({ cache, link: new HttpLink({ uri: url, headers }) });
  const variables = { ...NOTHING, ...(await start()) };
  const query = gql(PAGE);
  const watched = apolloClient.watchQuery({ query, variables });
  await new Promise((resolve, reject) => {
    watched.subscribe({ next: ({ data }) => data?.vehicles && resolve(), error: reject });
  });
  const stored = () => cache.readQuery({ query, variables }).vehicles;
  await pageThrough(() => stored().pageInfo, (more) => watched.fetchMore({ variables: { ...NOTHING, ...more } }));
  return stored().edges.map((edge) => edge.node.vehicleId);
}

async function urql() {
  const { Client, fetchExchange, gql } = await import("@urql/core");
  const { cacheExchange } = await import("@urql/exchange-graphcache");
  const { relayPagination } = await import("@urql/exchange-graphcache/extras");
  const unkeyed = () => null;
  const urqlClient = new Client({
    url,
    fetchOptions: { headers },
    preferGetMethod: false,
    exchanges: [
      cacheExchange({
        resolvers: { Query: { vehicles: relayPagination() } },
        keys: { VehicleConnection: unkeyed, VehicleEdge: unkeyed, PageInfo: unkeyed },
      }),
      fetchExchange,
    ],
  });
  let merged;
  const ask = async (variables) => {
    const result = await urqlClient.query(gql(PAGE), { ...FILTER, ...variables }).toPromise();
    if (result.error) throw result.error;
    merged = result.data.vehicles;
  };
  await ask(await start());
  await pageThrough(() => merged.pageInfo, ask);
  return merged.edges.map((edge) => edge.node.vehicleId);
}

async function relay() {
  const { createRequire } = await import("node:module");
  const require = createRequire(import.meta.url);
  const { ConnectionHandler, Environment, Network, RecordSource, Store, createOperationDescriptor, fetchQuery } =
    require("relay-runtime");
  const { default: query } = await import("./generated/relay/FleetQuery.graphql.js");
  const { default: refetch } = await import("./generated/relay/RefetchQuery.graphql.js");
  const ask = async (request, variables) => {
    const answer = await fetch(url, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ query: request.text, variables }),
    });
    return answer.json();
  };
  const environment = new Environment({ network: Network.create(ask), store: new Store(new RecordSource(), { gcReleaseBufferSize: 100 }) });
  const first = { ...NOTHING, ...(await start()) };
  const descriptor = createOperationDescriptor(query, first);
  environment.retain(descriptor);
  await fetchQuery(environment, query, first).toPromise();
  // The connection as the store has merged it.
  const stored = () => {
    const source = environment.getStore().getSource();
    const record = source.get(ConnectionHandler.getConnectionID("client:root", "Fleet_vehicles", FILTER));
    const at = (holder, key) => source.get(holder[key].__ref);
    const edges = record.edges.__refs.map((reference) => source.get(reference));
    return { pageInfo: at(record, "pageInfo"), nodes: edges.map((edge) => at(edge, "node")) };
  };
  const more = async (variables) => {
    const whole = { ...NOTHING, ...variables };
    environment.retain(createOperationDescriptor(query, whole));
    await fetchQuery(environment, query, whole).toPromise();
  };
  await pageThrough(() => stored().pageInfo, more);
  // What @refetchable on Vehicle does: the same object again, through node(id:).
  const [{ id, vehicleId }] = stored().nodes;
  await fetchQuery(environment, refetch, { id }).toPromise();
  const again = environment.getStore().getSource().get(id);
  const root = environment.getStore().getSource().get("client:root");
  if (again.vehicleId !== vehicleId || root[`node(id:"${id}")`].__ref !== id) throw new Error("node(id:) led elsewhere");
  return stored().nodes.map((node) => node.vehicleId);
}

console.log(JSON.stringify(await { apollo, urql, relay }[client]()));
process.exit(0);
