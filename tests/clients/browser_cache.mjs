// urql in one tab of a headless Chromium sends the same query by GET, each time with other headers. Prints the results as
// a list. Arguments: URL of the page that has urql, URL of the endpoint, the query, the headers as a list of objects.
import { chromium } from "playwright-core";

const [page, url, query, requests] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const answers = [];
try {
  const tab = await (await browser.newContext()).newPage();
  await tab.goto(page);
  await tab.waitForFunction(() => window.ask);
  for (const headers of JSON.parse(requests)) {
    answers.push(await tab.evaluate(([to, what, how]) => window.ask(to, what, how), [url, query, headers]));
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(answers));
