// Apollo Client and Relay update their stores from the payload of a mutation. Arguments: client (apollo | relay), URL,
// token, vehicle id. Prints the tags and version in the store before and after the mutation, its outcome, and the number
// of requests.
const [client, url, token, vehicleId] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
let requests = 0;
const counted = (...given) => {
  requests += 1;
  return fetch(...given);
};
const input = (version) => ({ vehicleId, ifVersion: version, idempotencyKey: `from ${client}`, tags: ["from the payload"] });

async function apollo() {
  const { ApolloClient, HttpLink, InMemoryCache, gql } = await import("@apollo/client/core/index.js");
  const link = new HttpLink({ uri: url, headers, fetch: counted });
  const apolloClient = new ApolloClient({ cache: new InMemoryCache(), link });
  const query = gql`query Read($id: ID!) { vehicle(id: $id) { id version tags } }`;
  const shown = [];
  const watched = apolloClient.watchQuery({ query, variables: { id: vehicleId } });
  await new Promise((resolve, reject) => {
    watched.subscribe({
      next: ({ data }) => {
        if (data?.vehicle) shown.push({ tags: data.vehicle.tags, version: data.vehicle.version });
        if (data?.vehicle) resolve();
      },
      error: reject,
    });
  });
  const mutation = gql`mutation Write($input: UpdateVehicleInput!) {
    updateVehicle(input: $input) { outcome vehicle { id version tags } userErrors { code } }
  }`;
  const { data } = await apolloClient.mutate({ mutation, variables: { input: input(shown[0].version) } });
  await new Promise((resolve) => setTimeout(resolve));
  return { before: shown[0], after: shown.at(-1), outcome: data.updateVehicle.outcome };
}

async function relay() {
  const { createRequire } = await import("node:module");
  const relayRuntime = createRequire(import.meta.url)("relay-runtime");
  const { Environment, Network, RecordSource, Store, commitMutation, createOperationDescriptor, fetchQuery } = relayRuntime;
  const { default: query } = await import("./generated/relay/ReadQuery.graphql.js");
  const { default: mutation } = await import("./generated/relay/WriteMutation.graphql.js");
  const ask = async (request, variables) => {
    const answer = await counted(url, { method: "POST", headers, body: JSON.stringify({ query: request.text, variables }) });
    return answer.json();
  };
  const environment = new Environment({ network: Network.create(ask), store: new Store(new RecordSource()) });
  const descriptor = createOperationDescriptor(query, { id: vehicleId });
  environment.retain(descriptor);
  await fetchQuery(environment, query, { id: vehicleId }).toPromise();
  const stored = () => {
    const { tags, version } = environment.lookup(descriptor.fragment).data.vehicle;
    return { tags, version };
  };
  const before = stored();
  const done = await new Promise((resolve, reject) => {
    commitMutation(environment, { mutation, variables: { input: input(before.version) }, onCompleted: resolve, onError: reject });
  });
  return { before, after: stored(), outcome: done.updateVehicle.outcome };
}

console.log(JSON.stringify({ ...(await { apollo, relay }[client]()), requests }));
process.exit(0);
