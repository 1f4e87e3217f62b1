// What a client makes of errors. Arguments: client (apollo | urql | relay), URL, and pairs of a query and a token, which
// may be "", as JSON. Prints for each the codes of the errors that reach its caller, and the data.
const [client, url, requests] = process.argv.slice(2);

async function apollo(query, headers) {
  const { ApolloClient, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } = await import("@apollo/client/core/index.js").then(
    async (core) => ({ ...(await import("@apollo/client/errors/index.js")), ...core }),
  );
  const apolloClient = new ApolloClient({ cache: new InMemoryCache(), link: new HttpLink({ uri: url, headers }) });
  const { data, error } = await apolloClient.query({ query: gql(query), errorPolicy: "all" });
  if (error && !CombinedGraphQLErrors.is(error)) throw error;
  return { data, errors: error?.errors };
}

async function urql(query, headers) {
  const { Client, fetchExchange, gql } = await import("@urql/core");
  const urqlClient = new Client({ url, fetchOptions: { headers }, preferGetMethod: false, exchanges: [fetchExchange] });
  const { data, error } = await urqlClient.query(gql(query), {}).toPromise();
  return { data, errors: error?.graphQLErrors };
}

async function relay(query, headers) {
  const { createRequire } = await import("node:module");
  const { Network, Observable } = createRequire(import.meta.url)("relay-runtime");
  const network = Network.create(async ({ text }) => {
    const answer = await fetch(url, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json", accept: "application/graphql-response+json" },
      body: JSON.stringify({ query: text }),
    });
    return answer.json();
  });
  return Observable.from(network.execute({ text: query, operationKind: "query", name: "Q", metadata: {} }, {}, {})).toPromise();
}

const answers = [];
for (const [query, token] of JSON.parse(requests)) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const { data, errors } = await { apollo, urql, relay }[client](query, headers);
  answers.push({ data: data ?? null, codes: (errors ?? []).map(({ extensions }) => extensions?.code) });
}
console.log(JSON.stringify(answers));
process.exit(0);
