// The audit of GraphQL over HTTP that comes with graphql-http. Arguments: URL, token. Prints what fell short, as JSON.
import { auditServer } from "graphql-http";

const [url, token] = process.argv.slice(2);
const fetchFn = (address, init = {}) =>
  fetch(address, { ...init, headers: { ...init.headers, authorization: `Bearer ${token}` } });
const results = await auditServer({ url, fetchFn });
const short = results.filter(({ status }) => status !== "ok").map(({ id, name, reason }) => `${id} ${name}: ${reason}`);
console.log(JSON.stringify({ audits: results.length, short }));
