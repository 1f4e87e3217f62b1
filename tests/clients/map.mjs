// A person uses the map in a headless Chromium: filters, pages through the list, moves the map by keyboard, selects a
// vehicle. Prints what was seen as JSON. Arguments: URL of the gateway, a token to paste or "", width and height of the
// screen, color scheme, and where to put screenshots.
import { chromium } from "playwright-core";

const [url, token, width, height, colorScheme, screenshots] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
// What the gateway answers while a scan fails.
const INCOMPLETE = {
  data: null,
  errors: [{ message: "…", extensions: {
    code: "FLEET_INCOMPLETE", cause: "UPSTREAM_UNAVAILABLE", retryable: true, pagesRead: 3, vehiclesRead: 300,
  } }],
};
let isFailing = false;
const seen = { console: [], violations: [], foreign: [], operations: [] };
try {
  const viewport = { width: Number(width), height: Number(height) };
  const page = await (await browser.newContext({ viewport, colorScheme, hasTouch: viewport.width < 600 })).newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  await page.exposeFunction("violated", (text) => seen.violations.push(text));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => violated(`${event.effectiveDirective} ${event.blockedURI}`));
  });
  await page.route("**", (route) => {
    const request = route.request();
    if (!request.url().startsWith(url) && !request.url().startsWith("data:")) {
      seen.foreign.push(request.url());
      return route.abort();
    }
    if (request.method() === "POST" && isFailing) {
      return route.fulfill({ json: INCOMPLETE, contentType: "application/graphql-response+json" });
    }
    if (request.method() === "POST") seen.operations.push(request.postDataJSON().query.match(/query (\w+)/)[1]);
    return route.continue();
  });
  // What the page shows, once all answers are there and `expected` is in its summary.
  const shown = async (expected) => {
    await page.waitForFunction(
      (text) => document.getElementById("summary").textContent.includes(text) && !document.querySelector("[aria-busy]"),
      expected,
    );
    return page.evaluate(() => {
      const text = (selector) => document.querySelector(selector).textContent;
      const dots = (name) => (document.querySelector(`.dots .${name}`).getAttribute("d").match(/M/g) ?? []).length;
      const kinds = ["free", "rented", "garage", "unknown"];
      return {
        summary: text("#summary"),
        totals: Object.fromEntries([...document.querySelectorAll("#totals li")].map((row) => [
          row.className, Number(row.querySelector("strong").textContent.replaceAll(",", "")),
        ])),
        dots: Object.fromEntries(kinds.map((kind) => [kind, dots(kind)])),
        plates: [...document.querySelectorAll("#list strong")].map((each) => each.textContent),
        range: text("#range"),
      };
    });
  };
  const shot = (name) => screenshots && page.screenshot({ path: `${screenshots}/${name}.png`, fullPage: true });
  const turnTo = async (button, range) => {
    await page.click(button);
    await page.waitForFunction((text) => document.getElementById("range").textContent.startsWith(text), range);
  };

  await page.goto(`${url}/map`);
  if (token) {
    seen.invitation = await page.textContent("#summary");
    await page.fill("#token", "wrong-token");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#problem:not([hidden])");
    seen.rejection = await page.textContent("#problem span");
    // Chromium writes every response with 401 to the console.
    seen.console = seen.console.filter((text) => !text.includes("401"));
    await page.fill("#token", token);
    await page.keyboard.press("Enter");
  }
  seen.all = await shown(" vehicles");
  await shot("all");

  // Pages of the list, to its second page and back.
  await turnTo("#next", "26–50");
  seen.second = await page.$$eval("#list strong", (all) => all.map((each) => each.textContent));
  await turnTo("#previous", "1–25");
  seen.back = await page.$$eval("#list strong", (all) => all.map((each) => each.textContent));

  // A filter by brand and charge, with the keyboard: the totals, the points and the list follow.
  await page.focus("[name=brand]");
  await page.keyboard.type("Audi");
  await page.focus("[name=charge]");
  for (let press = 0; press < 6; press++) await page.keyboard.press("ArrowRight");
  await page.waitForFunction((before) => document.getElementById("summary").textContent !== before, seen.all.summary);
  await page.waitForFunction(() => !document.querySelector("[aria-busy]"));
  const narrowed = `${seen.all.summary.match(/^(\S+) of/)[1]} vehicles`;
  seen.filtered = await shown(narrowed);
  while (await page.isEnabled("#next")) {
    const before = await page.textContent("#range");
    await page.click("#next");
    await page.waitForFunction((text) => document.getElementById("range").textContent !== text, before);
  }
  seen.last = await page.textContent("#range");
  await shot("filtered");

  // Only what is in the view: the map is moved with the keyboard until something else is found.
  await page.check("[name=in-view]");
  await page.focus("#chart");
  for (const key of ["+", "+", "ArrowRight"]) await page.keyboard.press(key);
  await page.waitForFunction((before) => document.getElementById("summary").textContent.match(/^\S+/)[0] !== before,
    seen.filtered.summary.match(/^\S+/)[0]);
  seen.inView = await shown(narrowed);

  // A vehicle's details, by the list; then everything again.
  await page.focus("#list button");
  seen.chosen = await page.textContent("#list strong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#vehicle h2");
  seen.vehicle = await page.textContent("#vehicle");
  await page.waitForTimeout(600); // the view moved, and the filter with it
  await page.waitForFunction(() => !document.querySelector("[aria-busy]"));
  await shot("vehicle");
  await page.click("#vehicle button");
  await page.click("#filter [type=reset]");
  await shown(seen.all.summary.split(" · ")[0]);
  await page.click("#fit");
  seen.cleared = await shown(seen.all.summary.split(" · ")[0]);

  // A scan that fails: nothing of the answer before it stays, and the same is asked again.
  isFailing = true;
  await page.selectOption("[name=status]", "garage");
  await page.waitForSelector("#problem:not([hidden])");
  seen.failure = await page.textContent("#problem span");
  seen.remains = await page.evaluate(() => document.querySelectorAll("#list li, #totals li").length
    + [...document.querySelectorAll(".dots path")].filter((path) => path.getAttribute("d")).length);
  await shot("failure");
  isFailing = false;
  await page.click("#problem button");
  seen.garage = await shown(narrowed);
  seen.problem = await page.isVisible("#problem");

  // Nothing is cut off or scrolls sideways, every control has a name, and the token is nowhere but in memory.
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  seen.unnamed = await page.$$eval("button, input, select", (all) => all
    .filter((each) => !each.textContent.trim() && !each.ariaLabel && !each.labels?.length)
    .map((each) => each.outerHTML));
  seen.storage = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.cookie);
  seen.address = page.url();
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
