// Looks at GraphiQL wide and on a phone, light and dark: axe-core's findings, what is wider than the screen, and how long
// the page takes in a new browser. Prints what was seen as JSON. Arguments: URL of the gateway, folder for pictures.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { launch, open } from "./browser.mjs";

const [url, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDE = { viewport: { width: 1400, height: 900 } };
const PHONE = { viewport: { width: 390, height: 800 }, isMobile: true, hasTouch: true };
const seen = { findings: [], wider: [], complaints: [], milliseconds: [], bytes: 0 };

async function check(page, name) {
  await page.evaluate(axe); // by the debugger, which no policy concerns
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, nodes } of violations) {
    for (const { html, any } of nodes) seen.findings.push({ name, id, impact, html: html.slice(0, 200), why: any[0]?.message });
  }
  if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) seen.wider.push(name);
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

for (const [device, options] of [["wide", WIDE], ["phone", PHONE]]) {
  for (const colorScheme of ["light", "dark"]) {
    const browser = await launch(); // cold, with no cache
    const complaints = {};
    try {
      const graphiql = await open(browser, complaints, { ...options, colorScheme });
      const { page } = graphiql;
      const began = Date.now();
      await page.goto(`${url}/graphql`, { waitUntil: "commit" });
      await page.waitForFunction(() => document.querySelector(".graphiql-query-editor .view-lines")?.textContent.includes("vehicles"));
      seen.milliseconds.push(Date.now() - began);
      seen.bytes = await page.evaluate(() => performance.getEntriesByType("resource").reduce((sum, { transferSize }) => sum + transferSize, 0));
      await graphiql.run("vehicleId");
      await check(page, `${device}-${colorScheme}`);
      for (const plugin of device === "wide" ? ["Query builder", "Documentation Explorer", "History", "Examples"] : ["Examples"]) {
        await graphiql.show(plugin);
        await page.waitForTimeout(300); // until it has moved in
        await check(page, `${device}-${colorScheme}-${plugin.replace(" ", "-").toLowerCase()}`);
      }
      await page.click("button:has-text('Paste token')");
      await graphiql.type("operation", "{ vehicles(first: -1) { nodes { id } } }");
      await graphiql.run("PAGE_SIZE_INVALID");
      await page.waitForSelector(".cost a");
      seen.link = await page.getAttribute(".cost a", "href");
      await check(page, `${device}-${colorScheme}-error`);
      seen.complaints.push(...complaints.console, ...complaints.policy, ...complaints.foreign);
    } finally {
      await browser.close();
    }
  }
}
// A deep link opens its query with its variables, and the address is plain then; the shelf copies such links.
const browser = await launch();
try {
  const graphiql = await open(browser, {});
  const { page } = graphiql;
  await graphiql.goto(`${url}/graphql#${new URLSearchParams({ query: "query Linked($n: Int) { vehicles(first: $n) { nodes { id } } }", variables: '{"n": 3}' })}`);
  seen.linked = [await graphiql.hasText("operation", "Linked"), await graphiql.hasText("variables", "3"), page.url()];
  await page.click("button[aria-label^='Copy link']");
  seen.copied = page.url();
  // The page of errors has what the link names.
  await page.goto(`${url}/${seen.link}`);
  seen.documented = await page.textContent(":target");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
