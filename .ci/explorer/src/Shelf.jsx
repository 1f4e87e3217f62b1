import { useGraphiQL, useGraphiQLActions } from "@graphiql/react";
import { useEffect, useState } from "react";
import { describe, fitting } from "./examples.js";

// The examples that fit the caller; one is opened in a new tab.
export function Shelf({ examples, gateway }) {
  const { addTab } = useGraphiQLActions();
  const editors = useGraphiQL(({ schema, fetcher, queryEditor, variableEditor }) => ({ schema, fetcher, queryEditor, variableEditor }));
  const { schema, fetcher, queryEditor, variableEditor } = editors;
  const [shown, setShown] = useState(examples);
  useEffect(() => {
    let isCurrent = true;
    fitting(examples, schema, gateway.ask)
      .then((found) => isCurrent && setShown(found))
      .catch(() => {}); // the examples stay as they are, and running one shows what is wrong
    return () => (isCurrent = false);
  }, [examples, schema, fetcher, gateway]); // there is a new fetcher for each caller

  const open = ({ query, variables }) => {
    addTab();
    queryEditor.setValue(query);
    variableEditor.setValue(variables ?? "");
    queryEditor.focus();
  };
  return (
    <section className="shelf" aria-label="Examples">
      <div className="graphiql-doc-explorer-title">Examples</div>
      <ul>
        {shown.map((example) => (
          <li key={example.name}>
            <button disabled={Boolean(example.reason)} onClick={() => open(example)}>
              {example.name.replaceAll("_", " ")}
            </button>
            <p>{example.reason ? `Not for you: ${example.reason}.` : describe(example)}</p>
          </li>
        ))}
      </ul>
    </section>
  );
}
