// A federation router over two subgraphs: the gateway, and one that knows trips of vehicles by their vehicleId.
// Each router comes with its own composition. Arguments: router (apollo | hive), URL of the gateway, token, the vehicle ids
// as JSON, path of the gateway's SDL, and optionally pairs of a query and a token, which may be "", as JSON. Prints what the
// router answers to a query over both subgraphs, and how many entity requests it made to the gateway; or a list of what it
// answers to the queries.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { composeServices as composeByApollo } from "@apollo/composition";
import { buildSubgraphSchema } from "@apollo/subgraph";
import { composeServices as composeByHive } from "@theguild/federation-composition";
import { graphql, parse } from "graphql";

const [router, url, token, idsText, sdlPath, asked] = process.argv.slice(2);
const ids = JSON.parse(idsText);
const QUERY = "{ trips { vehicle { vehicleId tripCount id masterData { brand } } } vehicles(first: 2) { nodes { vehicleId tripCount } } }";
const SDL = `
  extend schema @link(url: "https://specs.apollo.dev/federation/v2.3", import: ["@key"])
  type Query { trips: [Trip!]! }
  type Trip { vehicle: Vehicle! }
  type Vehicle @key(fields: "vehicleId") { vehicleId: String! tripCount: Int! }
`;

const tripsSchema = buildSubgraphSchema({
  typeDefs: parse(SDL),
  resolvers: {
    Query: { trips: () => ids.map((vehicleId) => ({ vehicle: { vehicleId } })) },
    Vehicle: { __resolveReference: ({ vehicleId }) => ({ vehicleId }), tripCount: ({ vehicleId }) => vehicleId.length },
  },
});

// Both subgraphs over real HTTP; in front of the gateway a relay that counts what the router sends.
let entityCalls = 0;
async function bodyOf(request) {
  let text = "";
  for await (const chunk of request) text += chunk;
  return text;
}
const listen = (handler) =>
  new Promise((resolve) => {
    const server = createServer(handler).listen(0, "127.0.0.1", () => resolve(`http://127.0.0.1:${server.address().port}/graphql`));
  });
const trips = await listen(async (request, response) => {
  const { query, variables, operationName } = JSON.parse(await bodyOf(request));
  const answer = await graphql({ schema: tripsSchema, source: query, variableValues: variables, operationName });
  response.setHeader("content-type", "application/json").end(JSON.stringify(answer));
});
const fleet = await listen(async (request, response) => {
  const body = await bodyOf(request);
  if (body.includes("_entities")) entityCalls += 1;
  const headers = { "content-type": "application/json", accept: request.headers.accept ?? "*/*" };
  if (request.headers.authorization) headers.authorization = request.headers.authorization;
  const answer = await fetch(url, { method: "POST", headers, body });
  response.statusCode = answer.status;
  response.setHeader("content-type", answer.headers.get("content-type")).end(await answer.text());
});

const compose = { apollo: composeByApollo, hive: composeByHive }[router];
const { supergraphSdl, errors } = compose([
  { name: "fleet", url: fleet, typeDefs: parse(readFileSync(sdlPath, "utf8")) },
  { name: "trips", url: trips, typeDefs: parse(SDL) },
]);
if (errors) throw new Error(errors.map(String).join("\n"));

// Each starts a router, and gives a function that asks it.
async function apollo() {
  const { ApolloGateway, RemoteGraphQLDataSource } = await import("@apollo/gateway");
  const { ApolloServer } = await import("@apollo/server");
  class Forwarding extends RemoteGraphQLDataSource {
    willSendRequest({ request, context }) {
      if (context.authorization) request.http.headers.set("authorization", context.authorization);
    }
  }
  const gateway = new ApolloGateway({ supergraphSdl, buildService: ({ url: at }) => new Forwarding({ url: at }) });
  const server = new ApolloServer({ gateway });
  return async (query, authorization) => {
    const { body } = await server.executeOperation({ query }, { contextValue: { authorization } });
    return body.singleResult;
  };
}

async function hive() {
  const { createGatewayRuntime } = await import("@graphql-hive/gateway");
  const runtime = createGatewayRuntime({
    supergraph: supergraphSdl,
    logging: false,
    propagateHeaders: { fromClientToSubgraphs: ({ request }) => ({ authorization: request.headers.get("authorization") ?? undefined }) },
  });
  return async (query, authorization) => {
    const answer = await runtime.fetch("http://router.test/graphql", {
      method: "POST",
      headers: { "content-type": "application/json", ...(authorization && { authorization }) },
      body: JSON.stringify({ query }),
    });
    return answer.json();
  };
}

const ask = await { apollo, hive }[router]();
const answers = [];
for (const [query, bearer] of asked ? JSON.parse(asked) : [[QUERY, token]]) {
  const { data, errors: failed } = await ask(query, bearer && `Bearer ${bearer}`);
  answers.push({ data, errors: failed, entityCalls });
}
console.log(JSON.stringify(asked ? answers : answers[0]));
process.exit(0);
