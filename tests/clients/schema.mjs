// schema.graphql as front-end tools see it: TypeScript by graphql-codegen, compiled strictly, and graphql-eslint's Relay
// rules; and the schema that introspection shows, by graphql-codegen, which refuses unknown scalars. Prints what they have
// to say; ends with 0 if that is nothing. Arguments: path of schema.graphql, URL of the gateway, token.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { generate } from "@graphql-codegen/cli";
import { ESLint } from "eslint";

const [schema, url, token] = process.argv.slice(2);
const config = { strictScalars: true, scalars: { DateTime: "string", JSON: "unknown" }, useTypeImports: true };
await generate(
  {
    schema,
    documents: "../../docs/queries/*.graphql",
    generates: {
      "generated/schema.ts": { plugins: ["typescript"], config },
      "generated/operations.ts": { plugins: ["typescript-operations"], config },
    },
    silent: true,
  },
  true,
);
await generate(
  {
    schema: { [url]: { headers: { Authorization: `Bearer ${token}` } } },
    generates: { "generated/introspected.ts": { plugins: ["typescript"], config } },
    silent: true,
  },
  true,
);
writeFileSync(
  "generated/use.ts",
  `import type { FleetQuery } from "./operations";
import type { Vehicle as Introspected } from "./introspected";
import type { Vehicle } from "./schema";
export const same = (vehicle: Introspected): Vehicle => vehicle;
export const name = (vehicle: Vehicle): string => vehicle.masterData?.customName ?? vehicle.vehicleId;
export const plates = (fleet: FleetQuery): string[] =>
  (fleet.vehicles?.nodes ?? []).map((vehicle) => vehicle.masterData?.licensePlate ?? "none");
`,
);
execFileSync("npx", ["tsc", "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler", "generated/use.ts"], {
  stdio: "inherit",
});

const { default: graphqlPlugin } = await import("@graphql-eslint/eslint-plugin");
const eslint = new ESLint({
  cwd: fileURLToPath(new URL("../..", import.meta.url)),
  overrideConfigFile: true,
  overrideConfig: [
    {
      files: ["**/*.graphql"],
      languageOptions: { parser: graphqlPlugin.parser, parserOptions: { graphQLConfig: { schema } } },
      plugins: { "@graphql-eslint": graphqlPlugin },
      rules: {
        "@graphql-eslint/relay-arguments": ["error", { includeBoth: false }],
        "@graphql-eslint/relay-connection-types": "error",
        "@graphql-eslint/relay-edge-types": ["error", { withEdgeSuffix: true, shouldImplementNode: true, listTypeCanWrapOnlyEdgeType: false }],
        "@graphql-eslint/relay-page-info": "error",
        "@graphql-eslint/require-description": ["error", { types: true, FieldDefinition: true, InputValueDefinition: true, EnumValueDefinition: true }],
      },
    },
  ],
});
const [{ messages }] = await eslint.lintFiles(["schema.graphql"]);
for (const { line, ruleId, message } of messages) console.log(`${line}: ${ruleId}: ${message}`);
process.exit(messages.length ? 1 : 0);
