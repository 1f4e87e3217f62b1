// A person opens GraphiQL without a token in a headless Chromium, types something else and then the token, and uses it
// in another tab. Prints what was seen as JSON. Arguments: URL of the gateway, token, whether introspection needs none.
import { chromium } from "playwright-core";

const [url, token, isPublic] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const seen = { errors: [], introspections: [] };
try {
  const page = await (await browser.newContext({ viewport: { width: 1400, height: 900 } })).newPage();
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("request", (request) => {
    if (request.postDataJSON?.()?.operationName === "IntrospectionQuery") seen.introspections.push(request.headers().authorization ?? null);
  });
  const response = () => page.evaluate(() => document.querySelector(".result-window .CodeMirror").CodeMirror.getValue());
  const docs = () => page.textContent(".graphiql-doc-explorer");
  const hasSchema = () => page.waitForFunction(() => document.querySelector(".graphiql-doc-explorer").textContent.includes("Query"));
  const fails = (message) => page.waitForFunction((text) => document.querySelector(".result-window .CodeMirror")?.CodeMirror.getValue().includes(text), message);
  const select = (text) => page.evaluate((wanted) => {
    const editor = [...document.querySelectorAll(".graphiql-editor-tool .CodeMirror")][1].CodeMirror;
    const line = editor.getValue().split("\n").findIndex((each) => each.includes(wanted));
    const start = editor.getLine(line).indexOf(wanted);
    editor.setSelection({ line, ch: start }, { line, ch: start + wanted.length });
    editor.focus();
  }, text);

  await page.goto(`${url}/graphql`);
  await page.click("button[aria-label='Show Documentation Explorer']");
  await page.waitForSelector(".graphiql-doc-explorer");
  if (isPublic) {
    await hasSchema();
    seen.first = await response();
  } else {
    await fails("UNAUTHENTICATED");
    seen.first = { response: await response(), docs: await docs() };
    await select("<your token>");
    const refused = page.waitForResponse((answer) => answer.request().headers().authorization === "Bearer no token");
    await page.keyboard.type("no token", { delay: 10 });
    await refused;
    await page.waitForFunction(() => document.querySelector(".graphiql-doc-explorer").textContent.includes("Error"));
    seen.second = { response: await response(), docs: await docs() };
    await select("no token");
    await page.keyboard.type(token, { delay: 10 });
    await hasSchema();
    await page.waitForFunction(() => document.querySelector(".result-window .CodeMirror").CodeMirror.getValue() === "");
    // Another tab still has the placeholder.
    await page.click(".graphiql-tab-button:has-text('NextPage')");
    await page.waitForFunction(() => document.querySelector(".graphiql-query-editor .CodeMirror").CodeMirror.operationName === "NextPage");
    await page.click(".graphiql-query-editor .CodeMirror");
    await page.keyboard.press("Control+Enter");
    await fails('"cursor"');
    seen.third = { response: await response(), docs: await docs() };
  }
  await page.click("button[aria-label='Open settings dialog']");
  seen.settings = await page.$$eval(".graphiql-dialog-section-title", (titles) => titles.map((title) => title.textContent));
  seen.storage = await page.evaluate(() => JSON.stringify(localStorage));
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
