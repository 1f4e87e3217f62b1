// What a gateway with mutations and subscriptions would show in GraphiQL, with a stub in its place: a mutation is sent
// after a confirmation only, and subscriptions are server-sent events. Prints what was seen as JSON. Argument: URL of a
// gateway.
import { buildSchema, introspectionFromSchema } from "graphql";
import { launch, open } from "./browser.mjs";

const [url] = process.argv.slice(2);
const SCHEMA = `
  type Query { vehicles: [String!]! }
  type Mutation { unlock(id: ID!): String, lock(id: ID!): String }
  type Subscription { seconds: Int! }
`;
const browser = await launch();
const seen = { sent: [] };
try {
  const graphiql = await open(browser, seen);
  const { page } = graphiql;
  await page.route(`${url}/graphql`, (route, request) => {
    if (request.method() === "GET") return route.continue();
    const { query, operationName } = request.postDataJSON();
    if (operationName === "IntrospectionQuery") return route.fulfill({ json: { data: introspectionFromSchema(buildSchema(SCHEMA)) } });
    seen.sent.push({ query, accept: request.headers().accept, cost: request.headers()["x-gateway-cost"] });
    if (!query.includes("subscription")) return route.fulfill({ json: { data: { unlock: "done" } } });
    const events = [1, 2, 3].map((seconds) => `event: next\ndata: ${JSON.stringify({ data: { seconds } })}\n\n`);
    return route.fulfill({ contentType: "text/event-stream", body: `${events.join("")}event: complete\ndata: \n\n` });
  });
  await graphiql.goto(`${url}/graphql`);
  await graphiql.type("operation", 'query Q { vehicles } mutation M($id: ID!) { unlock(id: $id) }');
  await page.waitForTimeout(500); // until GraphiQL has read the operations
  await graphiql.type("variables", '{"id": "JQ7RP"}');
  const send = async () => {
    await graphiql.focus("operation");
    await page.keyboard.press("Control+End");
    await page.keyboard.press("Control+Enter");
    await page.waitForSelector("dialog[open]");
  };
  await send();
  seen.question = await page.textContent("dialog[open]");
  await page.keyboard.press("Enter"); // the focus is on Cancel
  seen.cancelled = await graphiql.hasText("response", "Not sent");
  seen.sentThen = seen.sent.length;
  await send();
  await page.keyboard.press("Escape");
  seen.escaped = await graphiql.hasText("response", "Not sent");
  seen.sentStill = seen.sent.length;
  await page.click("button[aria-label^='Price only']");
  await graphiql.hasText("response", "done");
  await send();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  seen.done = await graphiql.hasText("response", "done");
  await graphiql.type("operation", "subscription S { seconds }");
  await graphiql.run('"seconds": 3');
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
