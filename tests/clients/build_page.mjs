// Builds the application of docs/front-end.md: generates, type-checks and compiles it to CommonJS in its folder out/.
// Arguments: the folder, and "trusted" for the build with trusted documents.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { transformSync } from "@babel/core";

const [folder, variant] = process.argv.slice(2);
const bin = fileURLToPath(new URL("node_modules/.bin/", import.meta.url));
process.chdir(folder); // where the Babel plugin looks for relay.config.json
const run = (program, ...options) => execFileSync(join(bin, program), options, { cwd: folder, stdio: ["ignore", 2, 2] });
const infix = variant ? `.${variant}` : "";
mkdirSync(join(folder, "src/relay/__generated__"), { recursive: true });
if (variant) writeFileSync(join(folder, "relay-documents.json"), "{}");
run("relay-compiler", `relay${variant ? infix : ".config"}.json`);
run("graphql-codegen", "--config", `codegen${infix}.ts`);

const options = { target: "es2022", module: "esnext", moduleResolution: "bundler", jsx: "react-jsx", skipLibCheck: true, types: [] };
const lib = ["es2022", "dom"];
writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...options, lib, strict: true, noEmit: true }, include: ["src"] }));
run("tsc", "--project", "tsconfig.json");

// Relay's Babel plugin replaces its tagged templates, which TypeScript can't; TypeScript compiles the rest.
const sources = readdirSync(join(folder, "src"), { recursive: true }).filter((name) => /\.tsx?$/.test(name));
for (const name of sources) {
  const path = join(folder, "plain", name);
  mkdirSync(dirname(path), { recursive: true });
  const { code } = transformSync(readFileSync(join(folder, "src", name), "utf8"), {
    babelrc: false,
    configFile: false,
    filename: join(folder, "src", name),
    parserOpts: { plugins: ["typescript", "jsx"] },
    plugins: name.startsWith("relay/") && !name.includes("__generated__") ? [["relay", { eagerEsModules: true }]] : [],
  });
  writeFileSync(path, code);
}
mkdirSync(join(folder, "out"));
writeFileSync(join(folder, "out", "package.json"), JSON.stringify({ type: "commonjs" }));
writeFileSync(
  join(folder, "tsconfig.json"),
  JSON.stringify({ compilerOptions: { ...options, module: "commonjs", noCheck: true, rootDir: "plain", outDir: "out" }, include: ["plain"] }),
);
run("tsc", "--project", "tsconfig.json");
