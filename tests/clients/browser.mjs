// A headless Chromium with everything but this machine cut off, and GraphiQL as a person uses it.
import { chromium } from "playwright-core";

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
  });

// A new page in a context of its own. `seen` gets what must not happen: console errors, reports of the policy, requests
// to other hosts, and URLs and referrers, in which there must be no token.
export async function open(browser, seen, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, ...options });
  Object.assign(seen, { console: [], policy: [], foreign: [], addresses: [] });
  await context.exposeFunction("reportPolicy", (report) => seen.policy.push(report));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => globalThis.reportPolicy(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
  });
  context.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.console.push(message.text()));
  context.on("weberror", (error) => seen.console.push(String(error.error())));
  context.on("request", (request) => {
    seen.addresses.push(request.url(), request.headers().referer ?? "");
    if (!/^(http:\/\/127\.0\.0\.1:|data:|blob:|about:)/.test(request.url())) seen.foreign.push(request.url());
  });
  context.setDefaultTimeout(90_000); // on a busy machine, too
  return new GraphiQL(await context.newPage());
}

export class GraphiQL {
  constructor(page) {
    this.page = page;
  }

  async goto(url) {
    await this.page.goto(url);
    await this.page.waitForSelector(".graphiql-query-editor .view-line", { state: "attached" });
  }

  // The text of an editor: "operation", "variables", "request-headers" or "response".
  text = (editor) =>
    this.page.evaluate(
      (name) => globalThis.__MONACO?.editor.getModels().find(({ uri }) => uri.path.includes(`${name}.`))?.getValue() ?? "",
      editor,
    );

  async hasText(editor, part) {
    const read = (asked) =>
      globalThis.__MONACO?.editor.getModels().find(({ uri }) => uri.path.includes(`${asked[0]}.`))?.getValue().includes(asked[1]);
    await this.page.waitForFunction(read, [editor, part]);
    return this.text(editor);
  }

  focus = (editor) => this.page.focus(`${SECTIONS[editor]} textarea`);

  async type(editor, text) {
    await this.focus(editor);
    await this.page.keyboard.press("Control+A");
    await this.page.keyboard.press("Delete");
    await this.page.keyboard.insertText(text);
  }

  // Runs the operation by keyboard; `part` has to be in its result.
  async run(part) {
    await this.page.evaluate(() => globalThis.__MONACO.editor.getModels().find(({ uri }) => uri.path.includes("response.")).setValue(""));
    await this.focus("operation");
    await this.page.keyboard.press("Control+Enter");
    return this.hasText("response", part);
  }

  show = (plugin) => this.page.click(`button[aria-label='Show ${plugin}']`);

  async paste(token) {
    await this.page.click("button:has-text('Paste token')");
    await this.page.fill("input[name=token]", token);
    await this.page.keyboard.press("Enter");
  }

  storage = () => this.page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
}

const SECTIONS = {
  operation: ".graphiql-query-editor",
  variables: ".graphiql-editor-tool .graphiql-editor:nth-child(1)",
  "request-headers": ".graphiql-editor-tool .graphiql-editor:nth-child(2)",
};

// How many of these texts are in the memory of a page, after garbage has been collected; `size` is that of the snapshot.
export async function inMemory(page, texts) {
  const session = await page.context().newCDPSession(page);
  const found = new Set();
  let size = 0;
  let end = ""; // of the last chunk, since a text may begin there
  session.on("HeapProfiler.addHeapSnapshotChunk", ({ chunk }) => {
    size += chunk.length;
    for (const text of texts) if ((end + chunk).includes(text)) found.add(text);
    end = chunk.slice(-4096);
  });
  await session.send("HeapProfiler.collectGarbage");
  await session.send("HeapProfiler.takeHeapSnapshot");
  await session.detach();
  return { size, found: found.size };
}
