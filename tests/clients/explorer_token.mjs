// A person opens GraphiQL without a token, pastes an expired one, a wrong one and the right one, uses it in another tab,
// and makes the page forget it. Prints what was seen as JSON. Arguments: URL of the gateway, the token, an expired one.
import { inMemory, launch, open } from "./browser.mjs";

const [url, token, expired] = process.argv.slice(2);
const browser = await launch();
const seen = { introspections: [] };
try {
  const graphiql = await open(browser, seen);
  const { page } = graphiql;
  page.on("request", (request) => {
    if (request.postDataJSON?.()?.operationName === "IntrospectionQuery") seen.introspections.push(request.headers().authorization ?? null);
  });
  const hasSchema = () => page.waitForFunction(() => document.querySelector(".graphiql-doc-explorer").textContent.includes("Query"));
  const problem = async (part) => {
    await page.waitForFunction((text) => document.querySelector(".caller [role=alert]").textContent.includes(text), part);
    return page.textContent(".caller [role=alert]");
  };

  await graphiql.goto(`${url}/graphql`);
  await graphiql.show("Documentation Explorer");
  seen.none = await problem("token");
  seen.response = await graphiql.hasText("response", "A token is needed");
  await page.keyboard.press("Control+Home");
  await graphiql.type("operation", "query Mine { vehicles(first: 1) { nodes { vehicleId } } }");
  await graphiql.paste(expired);
  await hasSchema(); // the gateway of this test leaves verification to the fleet API
  await page.waitForFunction(() => globalThis.__MONACO.editor.getModels().find(({ uri }) => uri.path.includes("response.")).getValue() === "");
  await graphiql.run("UNAUTHENTICATED");
  seen.expired = await problem("expired");
  await graphiql.paste("wrong");
  await graphiql.run("UNAUTHENTICATED");
  seen.wrong = await problem("rejected");
  await graphiql.paste("no token");
  seen.malformed = await problem("not a token");
  await graphiql.paste(`Bearer ${token}`);
  await page.waitForFunction(() => !document.querySelector(".caller [role=alert]").textContent);
  seen.kept = await graphiql.text("operation");
  seen.answer = await graphiql.run('"vehicleId"');
  seen.source = await page.textContent(".caller [role=status]");
  await graphiql.show("Examples");
  await page.click(".shelf button:has-text('next page')");
  seen.other = await graphiql.run('"cursor"');
  // In the header editor, too, a token is not stored.
  await page.click("button[data-name=headers]");
  await graphiql.type("request-headers", JSON.stringify({ Authorization: `Bearer ${token}` }));
  await graphiql.run('"cursor"');
  // A link never has a token in it.
  await graphiql.type("variables", JSON.stringify({ after: token }));
  await page.click("button[aria-label^='Copy link']");
  await page.waitForTimeout(1000); // GraphiQL stores its tabs half a second later
  seen.address = page.url();
  seen.storage = await graphiql.storage();
  seen.before = await inMemory(page, [token]);
  await graphiql.type("variables", "{}");
  await graphiql.type("request-headers", "{}");
  await Promise.all([page.waitForNavigation(), page.click("button:has-text('Forget token')")]);
  await page.waitForSelector(".graphiql-query-editor .view-line", { state: "attached" });
  await problem("token");
  seen.after = await inMemory(page, [token]);
  seen.storedAfter = await graphiql.storage();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
