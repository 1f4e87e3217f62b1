// A person logs in at the issuer, runs queries for some time, during which tokens expire, and logs out. Prints what was
// seen as JSON. Arguments: URL of the gateway, for how many seconds to run queries, and "ends" if the login ends then.
import { inMemory, launch, open } from "./browser.mjs";

const [url, seconds, ends] = process.argv.slice(2);
const browser = await launch();
const seen = { answers: 0, introspections: 0, statuses: {} };
const tokens = [];
try {
  const graphiql = await open(browser, seen);
  const { page } = graphiql;
  page.on("response", async (response) => {
    if (response.url().endsWith("/token") && response.ok()) {
      const { access_token, refresh_token } = await response.json();
      tokens.push(access_token, refresh_token);
    }
    if (response.url() === `${url}/graphql` && response.request().method() === "POST") {
      seen.statuses[response.status()] = (seen.statuses[response.status()] ?? 0) + 1;
      if (response.request().postData().includes("IntrospectionQuery")) seen.introspections += 1;
    }
  });
  const logIn = async () => {
    const [popup] = await Promise.all([page.waitForEvent("popup"), page.click("button:has-text('Log in')")]);
    await Promise.all([popup.waitForEvent("close"), popup.click("#continue")]);
    await page.waitForSelector("button:has-text('Log out')");
    await page.waitForFunction(() => !document.querySelector(".caller [role=alert]").textContent);
  };

  await graphiql.goto(`${url}/graphql`);
  await page.waitForFunction(() => document.querySelector(".caller [role=alert]").textContent.includes("log in"));
  await logIn();
  seen.source = await page.textContent(".caller [role=status]");
  const until = Date.now() + Number(seconds) * 1000;
  for (let size = 1; Date.now() < until; size++) {
    await graphiql.type("operation", `{ vehicles(first: ${1 + (size % 90)}) { nodes { vehicleId } } }`);
    await page.keyboard.press("Control+Enter");
    // A result or an error, whichever comes; the response is empty while the query runs.
    await page.waitForFunction(() => /vehicleId|errors/.test(globalThis.__MONACO.editor.getModels().find(({ uri }) => uri.path.includes("response.")).getValue()));
    const answer = JSON.parse(await graphiql.text("response"));
    if (answer.errors) break;
    seen.answers += 1;
    await page.waitForTimeout(500);
  }
  if (ends) {
    await page.waitForFunction(() => document.querySelector(".caller [role=alert]").textContent.includes("ended"));
    seen.problem = await page.textContent(".caller [role=alert]");
    seen.kept = await graphiql.text("operation");
    await logIn();
    seen.again = await graphiql.run("vehicleId");
  }
  seen.storage = await graphiql.storage();
  seen.before = await inMemory(page, tokens.slice(-2));
  await Promise.all([page.waitForNavigation(), page.click("button:has-text('Log out')")]);
  await page.waitForSelector("button:has-text('Log in')");
  await page.waitForFunction(() => document.querySelector(".caller [role=alert]").textContent.includes("log in"));
  seen.after = await inMemory(page, tokens);
  seen.storedAfter = await graphiql.storage();
  const session = await page.context().newCDPSession(page);
  seen.history = (await session.send("Page.getNavigationHistory")).entries;
} finally {
  await browser.close();
}
console.log(JSON.stringify({ ...seen, tokens: tokens.length }));
