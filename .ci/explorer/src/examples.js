import { parse, validate } from "graphql";

// A query that shows what the caller may read, with the ids of the caller's own vehicles.
const OWN = `query Own {
  vehicles(first: 2) {
    nodes { id vehicleId masterData { brand } telematicsUnit { unitId manufacturer brand } latestState { properties { name } } }
  }
}`;

// The examples with the ids of the caller's vehicles in their variables. Each has a `reason` if it can't be used:
// a schema without its fields, or a field that the caller may not read.
export async function fitting(examples, schema, run) {
  const { data, errors = [] } = await run({ query: OWN });
  const refused = errors.filter(({ extensions }) => extensions?.code === "FORBIDDEN").map(({ path }) => path?.findLast(isName));
  const vehicles = data?.vehicles?.nodes ?? [];
  return examples.map((example) => {
    const document = parse(example.query);
    const isInvalid = schema && validate(schema, document).length > 0;
    const name = refused.find((field) => new RegExp(`\\b${field}\\b`).test(example.query));
    const reason = isInvalid ? "not in this schema" : name && `your token may not read ${name}`;
    return { ...example, reason, variables: filled(example.variables, vehicles) };
  });
}

export function describe({ query }) {
  return /^#\s*(.*?)(?:\s*Variables:.*)?$/m.exec(query)?.[1] ?? "";
}

function isName(part) {
  return typeof part === "string" && part !== "nodes";
}

// Variables with the ids of these vehicles in place of the demo's.
function filled(text, [first, second]) {
  if (!text || !first) return text;
  const own = (name, value, siblings) => {
    const unit = first.telematicsUnit;
    if ("manufacturer" in siblings) return unit ? { ...unit, id: unit.unitId }[name] : value;
    if (name === "id" || name === "vehicleId") return first.vehicleId;
    if (name === "ids") return [first, second ?? first].map(({ id }) => id);
    if (name === "text") return first.masterData?.brand ?? value;
    return value;
  };
  const filledIn = Object.entries(JSON.parse(text)).map(([name, value], _, all) => [name, own(name, value, Object.fromEntries(all))]);
  return JSON.stringify(Object.fromEntries(filledIn));
}
