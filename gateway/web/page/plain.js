// The page of a build without GraphiQL. It uses no library.
import { Credentials } from "./credentials.js";
import { costLine, post } from "./requests.js";

const field = (id) => document.getElementById(id);
const config = JSON.parse(field("plain").dataset.config);
const credentials = new Credentials(config);

config.examples.forEach(({ name }, index) => field("example").append(new Option(name, String(index))));
field("example").addEventListener("change", choose);
field("run").addEventListener("click", () => run("report"));
field("price").addEventListener("click", () => run("validate"));
field("login").addEventListener("click", () => credentials.logIn());
field("logout").addEventListener("click", () => credentials.forget());
credentials.addEventListener("status", showStatus);
choose();
showStatus();

function choose() {
  const { query, variables } = config.examples[Number(field("example").value)] ?? { query: "" };
  field("query").value = query;
  field("variables").value = variables ?? "{}";
}

function showStatus() {
  field("problem").textContent = credentials.problem;
  field("login").hidden = !config.login || credentials.source === "login";
  field("logout").hidden = credentials.source !== "login";
}

async function run(cost) {
  const query = field("query").value;
  if (cost === "report" && /\bmutation\b/.test(query) && !confirm("This may change vehicles. Send it?")) return;
  if (field("token").value) credentials.paste(field("token").value);
  field("token").value = "";
  try {
    const result = await post(
      config.endpoint,
      credentials,
      { query, variables: JSON.parse(field("variables").value || "{}") },
      { "X-Gateway-Cost": cost },
    );
    field("cost").textContent = costLine(result.extensions);
    field("result").textContent = JSON.stringify(result, null, 2);
  } catch (error) {
    field("result").textContent = String(error);
  }
}
