// A person opens GraphiQL: runs the first example by keyboard, sees vehicles and what they cost, takes another example
// from the shelf, follows a cursor, builds a query, reads the documentation. Prints what was seen as JSON. Arguments:
// URL of the gateway, where to put a screenshot.
import { launch, open } from "./browser.mjs";

const [url, screenshot] = process.argv.slice(2);
const browser = await launch();
const seen = {};
try {
  const graphiql = await open(browser, seen);
  const { page } = graphiql;
  await graphiql.goto(`${url}/graphql`);
  // By keyboard from the top of the page, as somebody without a mouse.
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => Boolean(document.activeElement.closest(".graphiql-query-editor .graphiql-editor")))) break;
  }
  await page.keyboard.press("Enter");
  await page.keyboard.press("Control+Enter");
  seen.answer = await graphiql.hasText("response", "vehicleId");
  seen.cost = await page.textContent(".cost");

  await page.click("button[aria-label^='Price only']");
  seen.price = await graphiql.hasText("response", '"data": null');
  seen.priceLine = await page.textContent(".cost");

  await graphiql.show("Examples");
  seen.examples = await page.$$eval(".shelf li button", (buttons) => buttons.map((button) => button.textContent));
  await page.click(".shelf button:has-text('next page')");
  await graphiql.hasText("operation", "NextPage");
  const cursor = JSON.parse(seen.answer).data.vehicles.pageInfo.endCursor;
  await graphiql.type("variables", JSON.stringify({ after: cursor }));
  seen.next = await graphiql.run('"cursor"');

  await graphiql.show("Query builder");
  await page.click(".graphiql-explorer-root span:has-text('telematicsUnits')");
  await page.click(".graphiql-explorer-telematicsUnits .graphiql-explorer-nodes span");
  await page.click(".graphiql-explorer-telematicsUnits .graphiql-explorer-unitId span");
  seen.built = await graphiql.hasText("operation", "unitId");
  seen.units = await graphiql.run('"unitId"');

  await graphiql.show("Documentation Explorer");
  await page.click(".graphiql-doc-explorer a:has-text('Query')");
  await page.waitForFunction(() => document.querySelector(".graphiql-doc-explorer").textContent.includes("vehicles"));
  seen.docs = await page.textContent(".graphiql-doc-explorer");
  await page.waitForTimeout(1000); // GraphiQL stores its tabs half a second later
  seen.storage = await graphiql.storage();
  seen.address = page.url();
  if (screenshot) await page.screenshot({ path: screenshot });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
