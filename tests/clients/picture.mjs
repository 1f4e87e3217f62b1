// A picture of GraphiQL with the first example and its result, as a person sees it in a browser. Arguments: URL of the
// gateway, file to write.
import { launch, open } from "./browser.mjs";

const [url, file] = process.argv.slice(2);
const browser = await launch();
try {
  const graphiql = await open(browser, {}, { viewport: { width: 1200, height: 600 }, colorScheme: "light" });
  const { page } = graphiql;
  await graphiql.goto(`${url}/graphql`);
  await graphiql.run("licensePlate");
  await page.waitForFunction(() => document.querySelector(".cost").textContent.includes("Upstream"));
  await page.keyboard.press("Control+Home");
  await page.click("button[aria-label='Hide editor tools']");
  await page.mouse.move(600, 715); // away from buttons with tooltips
  await page.evaluate(() => document.activeElement.blur());
  await page.waitForTimeout(500);
  await page.screenshot({ path: file });
} finally {
  await browser.close();
}
