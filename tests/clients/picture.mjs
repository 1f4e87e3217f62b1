// A picture of GraphiQL with the first example and its result, as a person sees it in a browser. Arguments: URL of the
// gateway, file to write.
import { chromium } from "playwright-core";

const [url, file] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
try {
  const page = await (await browser.newContext({ viewport: { width: 1200, height: 600 }, colorScheme: "light" })).newPage();
  await page.goto(`${url}/graphql`);
  await page.waitForSelector(".graphiql-query-editor .CodeMirror");
  await page.click(".graphiql-query-editor .CodeMirror");
  await page.keyboard.press("Control+Enter");
  await page.waitForFunction(() => document.querySelector(".result-window .CodeMirror")?.CodeMirror.getValue().includes("licensePlate"));
  await page.waitForFunction(() => document.querySelector("#cost").textContent);
  await page.keyboard.press("Control+Home");
  await page.click("button[aria-label='Hide editor tools']"); // they show the demo's token
  await page.mouse.move(600, 715); // away from buttons with tooltips
  await page.evaluate(() => document.activeElement.blur());
  await page.waitForTimeout(500);
  await page.screenshot({ path: file });
} finally {
  await browser.close();
}
