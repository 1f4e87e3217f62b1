// Bundles GraphiQL with this folder's page into gateway/web/graphiql, from which the gateway serves it. Installs the
// packages of package-lock.json first, without their scripts. Does nothing if the bundle is current.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(dirname(FOLDER));
const WEB = join(ROOT, "gateway", "web");
const TARGET = join(WEB, "graphiql");
const MODULES = join(FOLDER, "node_modules");
const ERRORS = join(ROOT, "docs", "errors.md");
const WORKERS = {
  "editor.worker": "monaco-editor/esm/vs/editor/editor.worker.js",
  "graphql.worker": "monaco-graphql/esm/graphql.worker.js",
  "json.worker": "monaco-editor/esm/vs/language/json/json.worker.js",
};

// Replaces the whole of Monaco by the parts that this page uses.
const smallMonaco = {
  name: "small Monaco",
  setup({ onResolve }) {
    const whole = /^(monaco-graphql\/esm\/monaco-editor\.js|\.\/monaco-editor)$/;
    onResolve({ filter: whole }, () => ({ path: join(FOLDER, "src", "monaco.js") }));
  },
};

// Corrections of what screen readers are told, and of colours: a file, and its texts with what replaces each of them. A
// new version of a package that lacks such a text fails the build.
const CORRECTIONS = {
  "@graphiql/react/dist/components/tabs/index.js": [
    ['role: "tablist"', 'role: "list"'], // its items have buttons in them
    ['role: "tab"', 'role: "listitem"'],
    ['"aria-selected": isActive', '"aria-current": isActive'],
  ],
  // The dark theme's comments are too pale to read.
  "@graphiql/react/dist/constants.js": [['foreground: "#908aff"', 'foreground: "#908aff" }, { token: "comment", foreground: "#8fbf7a"']],
  "@graphiql/plugin-history/dist/components.js": [['"aria-label": "Set active", ', ""]],
  "graphiql-explorer/dist/Explorer.js": [
    ["type: 'text',", "type: 'text', 'aria-label': 'Value',"],
    ["onChange: this.props.setArgValue,", "onChange: this.props.setArgValue, 'aria-label': 'Value',"],
    ["style: { flexGrow: '2' } }", "style: { flexGrow: '2' }, 'aria-label': 'Kind of the new operation' }"],
  ],
};
const corrections = {
  name: "corrections",
  setup({ onLoad }) {
    for (const [file, texts] of Object.entries(CORRECTIONS)) {
      onLoad({ filter: new RegExp(`node_modules/${file}$`) }, ({ path }) => {
        let contents = readFileSync(path, "utf8");
        for (const [text, replacement] of texts) {
          if (!contents.includes(text)) throw new Error(`${file} has no ${text}`);
          contents = contents.replaceAll(text, replacement);
        }
        return { contents };
      });
    }
  },
};

// A hash of everything that the bundle depends on.
function inputs() {
  const own = ["build.mjs", "package-lock.json", ...readdirSync(join(FOLDER, "src")).map((name) => join("src", name))];
  const shared = readdirSync(join(WEB, "page")).map((name) => join(WEB, "page", name));
  const hash = createHash("sha256");
  for (const file of [...own.map((name) => join(FOLDER, name)), ...shared, ERRORS].sort()) {
    hash.update(`${relative(ROOT, file)}\0`).update(readFileSync(file));
  }
  return hash.digest("hex");
}

function install() {
  const installed = join(MODULES, ".package-lock.json"); // npm writes it last
  const lock = join(FOLDER, "package-lock.json");
  const copy = join(MODULES, ".installed-from");
  if (existsSync(installed) && existsSync(copy) && readFileSync(copy).equals(readFileSync(lock))) return;
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"];
  const ended = spawnSync("npm", ["ci", ...options], { cwd: FOLDER, stdio: ["ignore", 2, 2], shell: process.platform === "win32" });
  if (ended.status !== 0) process.exit(1);
  writeFileSync(copy, readFileSync(lock));
}

// The package of a bundled file, with its version and licence.
function packageOf(input) {
  const parts = input.split("/");
  const at = parts.lastIndexOf("node_modules");
  if (at < 0) return undefined;
  const length = parts[at + 1].startsWith("@") ? 3 : 2;
  const folder = join(FOLDER, ...parts.slice(parts.indexOf("node_modules"), at + length));
  const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return { name, version, license, folder: relative(FOLDER, folder).split(sep).join("/") };
}

async function bundle(out) {
  const { build } = await import("esbuild");
  const options = {
    absWorkingDir: FOLDER,
    bundle: true,
    minify: true,
    metafile: true,
    outdir: out,
    target: "es2022",
    define: { "process.env.NODE_ENV": '"production"' },
    entryNames: "[name]-[hash]",
    chunkNames: "[name]-[hash]",
    assetNames: "[name]-[hash]",
    legalComments: "none", // THIRD-PARTY-LICENSES has all licences
    logLevel: "warning",
  };
  const workers = await build({ ...options, entryPoints: WORKERS, format: "iife" });
  const names = {};
  for (const [file, { entryPoint }] of Object.entries(workers.metafile.outputs)) {
    if (entryPoint) names[Object.keys(WORKERS).find((key) => entryPoint.endsWith(WORKERS[key]))] = basename(file);
  }
  const page = await build({
    ...options,
    entryPoints: { explorer: "src/main.jsx" },
    format: "esm",
    splitting: true,
    jsx: "automatic",
    loader: { ".ttf": "file" },
    plugins: [smallMonaco, corrections],
    define: { ...options.define, WORKERS: JSON.stringify(names) },
  });
  return [workers.metafile, page.metafile];
}

// The page: its style, its script, and what the script loads at once.
function html({ outputs }) {
  const entry = Object.keys(outputs).find((file) => outputs[file].entryPoint === "src/main.jsx");
  const style = basename(outputs[entry].cssBundle);
  const loaded = new Set();
  const visit = (file, isAsked) => {
    if (loaded.has(file)) return;
    loaded.add(file);
    for (const { path, kind } of outputs[file].imports) {
      if (kind === "import-statement" || (kind === "dynamic-import" && isAsked(outputs[path]?.entryPoint))) visit(path, isAsked);
    }
  };
  visit(entry, (source) => source && /src\/monaco\.js$|monaco-graphql\/esm\/(lite|graphqlMode)\.js$/.test(source));
  loaded.delete(entry);
  const preloads = [...loaded].map((file) => `    <link rel="modulepreload" href="explorer/${basename(file)}">\n`).join("");
  const head =
    `    <link rel="stylesheet" nonce="{{nonce}}" href="explorer/${style}">\n` +
    preloads +
    `    <script type="module" src="explorer/${basename(entry)}"></script>\n`;
  return readFileSync(join(FOLDER, "src", "explorer.html"), "utf8").replace("    <!-- files -->\n", head);
}

// docs/errors.md as a page: each code is a target for links. Links to other documents are left out.
async function errorsPage() {
  const { default: MarkdownIt } = await import("markdown-it");
  const markdown = new MarkdownIt();
  const seen = new Set();
  markdown.renderer.rules.code_inline = (tokens, at) => {
    const text = markdown.utils.escapeHtml(tokens[at].content);
    const isCode = /^[A-Z_]{5,}$/.test(text) && !seen.has(text);
    seen.add(text);
    return `<code${isCode ? ` id="${text}"` : ""}>${text}</code>`;
  };
  const text = readFileSync(ERRORS, "utf8").replace(/\[([^\]]+)\]\((?!https:)[^)]+\)/g, "$1");
  return readFileSync(join(FOLDER, "src", "errors.html"), "utf8").replace("<!-- text -->", markdown.render(text));
}

const current = inputs();
const stamp = join(TARGET, "inputs.txt");
if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== current) {
  install();
  const out = join(WEB, `graphiql.new-${process.pid}`);
  mkdirSync(out);
  const metafiles = await bundle(out);
  for (const name of readdirSync(out)) {
    // The entry's style has those of all chunks.
    if (name.endsWith(".css") && !name.startsWith("explorer-")) rmSync(join(out, name));
  }
  writeFileSync(join(out, "index.html"), html(metafiles.at(-1)));
  writeFileSync(join(out, "errors.html"), await errorsPage());
  const sources = metafiles.flatMap(({ outputs }) => Object.values(outputs).flatMap((output) => Object.keys(output.inputs)));
  const packages = sources.map(packageOf).filter(Boolean).map((one) => [`${one.name}@${one.version}`, one]);
  const sorted = [...new Map(packages).values()].sort((one, other) => (one.name < other.name ? -1 : 1));
  writeFileSync(join(out, "packages.json"), JSON.stringify(sorted, null, 1));
  writeFileSync(join(out, "inputs.txt"), current);
  rmSync(TARGET, { recursive: true, force: true });
  renameSync(out, TARGET);
}
