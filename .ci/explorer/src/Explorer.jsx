import { explorerPlugin } from "@graphiql/plugin-explorer";
import { HISTORY_PLUGIN } from "@graphiql/plugin-history";
import { ToolbarButton, useGraphiQL, useGraphiQLActions } from "@graphiql/react";
import { GraphiQL } from "graphiql";
import { useEffect, useMemo, useState } from "react";
import { Caller } from "./Caller.jsx";
import { Confirmation } from "./Confirmation.jsx";
import { Cost } from "./Cost.jsx";
import { Gateway } from "./fetcher.js";
import { CostIcon, ExamplesIcon, LinkIcon } from "./icons.jsx";
import { linked, linkTo } from "./link.js";
import { Shelf } from "./Shelf.jsx";
import { storageWithoutTokens } from "./storage.js";

export function Explorer({ config, credentials }) {
  const [gateway] = useState(() => new Gateway(config, credentials));
  const [fetcher, setFetcher] = useState(() => gateway.fetcher());
  useEffect(() => {
    const renew = () => setFetcher(() => gateway.fetcher());
    credentials.addEventListener("caller", renew);
    return () => credentials.removeEventListener("caller", renew);
  }, [gateway, credentials]);

  // GraphiQL takes these once.
  const once = useMemo(() => {
    const link = linked();
    const { query, variables } = link ?? config.examples[0] ?? {};
    const shelf = () => <Shelf examples={config.examples} gateway={gateway} />;
    return {
      ...(link && { initialQuery: query, initialVariables: variables }),
      defaultTabs: [{ query, variables }],
      storage: storageWithoutTokens(credentials),
      plugins: [
        { title: "Examples", icon: ExamplesIcon, content: shelf },
        { ...explorerPlugin({ showAttribution: false }), title: "Query builder" },
        HISTORY_PLUGIN,
      ],
    };
  }, [config, credentials, gateway]);

  return (
    <>
      <Caller credentials={credentials} />
      <main>
        <GraphiQL {...once} fetcher={fetcher} shouldPersistHeaders={false} inputValueDeprecation defaultEditorToolsVisibility>
          <GraphiQL.Logo> </GraphiQL.Logo>
          <GraphiQL.Toolbar>
            {({ prettify, merge, copy }) => (
              <>
                <PriceOnly gateway={gateway} />
                {prettify}
                {merge}
                {copy}
                <CopyLink credentials={credentials} />
              </>
            )}
          </GraphiQL.Toolbar>
          <GraphiQL.Footer>
            <Cost answer={gateway.answer} />
          </GraphiQL.Footer>
          <SchemaErrorRemoved gateway={gateway} />
        </GraphiQL>
      </main>
      <Confirmation question={gateway.question} />
    </>
  );
}

function PriceOnly({ gateway }) {
  const { run } = useGraphiQLActions();
  const price = () => {
    gateway.priceOnly = true;
    run();
  };
  return (
    <ToolbarButton onClick={price} label="Price only: what it would cost, without running it">
      <CostIcon className="graphiql-toolbar-icon" aria-hidden="true" />
    </ToolbarButton>
  );
}

function CopyLink({ credentials }) {
  const { queryEditor, variableEditor } = useGraphiQL(({ queryEditor, variableEditor }) => ({ queryEditor, variableEditor }));
  const copy = () => {
    const link = linkTo(queryEditor.getValue(), variableEditor?.getValue());
    if (credentials.isIn(decodeURIComponent(link.replaceAll("+", " ")))) {
      throw new Error("The query or its variables have your token in them.");
    }
    history.replaceState(null, "", link);
    navigator.clipboard?.writeText(link).catch(() => {}); // the address bar has it, too
  };
  return (
    <ToolbarButton onClick={copy} label="Copy link to this query and its variables">
      <LinkIcon className="graphiql-toolbar-icon" aria-hidden="true" />
    </ToolbarButton>
  );
}

// GraphiQL leaves the error of the last schema in place of a result when another schema has arrived.
function SchemaErrorRemoved({ gateway }) {
  const { schema, responseEditor } = useGraphiQL(({ schema, responseEditor }) => ({ schema, responseEditor }));
  useEffect(() => {
    if (schema && responseEditor?.getValue() === gateway.lastSchemaError) responseEditor.setValue("");
  }, [gateway, schema, responseEditor]);
  return null;
}
