import "graphiql/graphiql.css";
import "@graphiql/react/style.css";
import "@graphiql/plugin-doc-explorer/style.css";
import "@graphiql/plugin-history/style.css";
import "@graphiql/plugin-explorer/style.css";
import "./explorer.css";
import { createRoot } from "react-dom/client";
import { Credentials } from "../../../gateway/web/page/credentials.js";
import { Explorer } from "./Explorer.jsx";

// Monaco and others write style elements. The page's policy allows those with its nonce, and no other.
const { nonce } = document.querySelector("link[nonce]");
const createElement = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = createElement(name, options);
  if (element instanceof HTMLStyleElement) element.nonce = nonce;
  return element;
};

globalThis.MonacoEnvironment = {
  getWorkerUrl: (_, language) => new URL(WORKERS[`${language}.worker`] ?? WORKERS["editor.worker"], import.meta.url).href,
};

// The editor takes longest to load, so it doesn't wait until it is shown.
import("./monaco.js").then(({ editor }) => {
  editor.onDidCreateEditor((created) => created.updateOptions({ fontFamily: "ui-monospace, Menlo, Consolas, monospace" }));
});

const root = document.getElementById("explorer");
const config = JSON.parse(root.dataset.config);
root.removeAttribute("data-config");
createRoot(root).render(<Explorer config={config} credentials={new Credentials(config)} />);
