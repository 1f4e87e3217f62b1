// A person opens GraphiQL in a headless Chromium: runs the first example by keyboard, sees vehicles and what they cost,
// reads the documentation. Prints what was seen as JSON. Arguments: URL of the gateway, where to put a screenshot.
import { chromium } from "playwright-core";

const [url, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const seen = { console: [], foreign: [], answer: "", cost: "", docs: "", storage: "", address: "" };
try {
  const page = await (await browser.newContext({ viewport: { width: 1400, height: 900 } })).newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  await page.route("**", (route) => {
    if (route.request().url().startsWith(url) || route.request().url().startsWith("data:")) return route.continue();
    seen.foreign.push(route.request().url());
    return route.abort();
  });
  await page.goto(`${url}/graphql`);
  await page.waitForSelector(".graphiql-query-editor .CodeMirror");
  await page.click(".graphiql-query-editor .CodeMirror");
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelector(".result-window .CodeMirror")?.CodeMirror.getValue().includes("vehicleId"));
  seen.answer = await page.evaluate(() => document.querySelector(".result-window .CodeMirror").CodeMirror.getValue());
  seen.cost = await page.textContent("#cost");
  seen.examples = await page.$$eval(".graphiql-tab", (tabs) => tabs.map((tab) => tab.textContent.trim()));
  // The next page: by the tab of that name, with the cursor just seen.
  const cursor = JSON.parse(seen.answer).data.vehicles.pageInfo.endCursor;
  await page.click(".graphiql-tab-button:has-text('NextPage')");
  await page.waitForFunction(() => document.querySelector(".graphiql-query-editor .CodeMirror").CodeMirror.getValue().includes("NextPage"));
  await page.waitForTimeout(300); // the editors of a tab are filled one after another
  await page.evaluate((after) => {
    const editor = [...document.querySelectorAll(".graphiql-editor-tool .CodeMirror")][0].CodeMirror;
    editor.setValue(JSON.stringify({ after }));
  }, cursor);
  await page.click(".graphiql-query-editor .CodeMirror");
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelector(".result-window .CodeMirror")?.CodeMirror.getValue().includes('"cursor"'));
  seen.next = await page.evaluate(() => document.querySelector(".result-window .CodeMirror").CodeMirror.getValue());
  await page.click("button[aria-label='Show Documentation Explorer']");
  await page.waitForSelector(".graphiql-doc-explorer");
  await page.click(".graphiql-doc-explorer a:has-text('Query')");
  await page.waitForFunction(() => document.querySelector(".graphiql-doc-explorer").textContent.includes("vehicles"));
  seen.docs = await page.textContent(".graphiql-doc-explorer");
  seen.storage = await page.evaluate(() => JSON.stringify(localStorage));
  seen.address = page.url();
  if (screenshot) await page.screenshot({ path: screenshot });
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
