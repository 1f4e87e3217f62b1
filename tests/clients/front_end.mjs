// Renders an application of docs/front-end.md and presses its button until there is none. Prints the ids and labels of
// its vehicles. Arguments: folder with the compiled application, client (relay | apollo | urql), URL, token, and
// "trusted" to send only the ids of documents.
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const [folder, client, url, token, variant] = process.argv.slice(2);
const require = createRequire(`${folder}/out/${client}/`);
const { createElement } = require("react");
const { act, create } = require("react-test-renderer");
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

if (variant && client === "apollo") {
  const { sendIds } = require("./trusted.js");
  const made = require("./client.js");
  const { createClient } = made;
  made.createClient = (...given) => sendIds(createClient(...given));
}
const { App } = require("./App.js");
let root;
await act(async () => {
  root = create(createElement(App, { url, token }));
});
const all = (type) => root.root.findAllByType(type);
const settled = async (before) => {
  for (let waited = 0; all("li").length === before; waited += 20) {
    if (waited > 20_000) throw new Error(`nothing more than ${before} vehicles: ${JSON.stringify(root.toJSON())}`);
    await act(async () => pause(20));
  }
};
await settled(0);
while (all("button").length) {
  const before = all("li").length;
  const [button] = all("button");
  await act(async () => button.props.onClick());
  await settled(before);
}
console.log(JSON.stringify(all("li").map(({ props }) => [props.children, props.title])));
process.exit(0);
