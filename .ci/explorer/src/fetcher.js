import { getOperationAST, parse } from "graphql";
import { createClient } from "graphql-sse";
import { post } from "../../../gateway/web/page/requests.js";
import { Observable } from "./observable.js";

// Sends GraphiQL's operations: queries and mutations by POST, subscriptions as server-sent events.
export class Gateway {
  answer = new Observable(undefined); // the last result, for the panel below it
  question = new Observable(undefined); // a mutation that waits for a confirmation
  priceOnly = false; // whether the next operation is only priced
  lastSchemaError; // as GraphiQL shows it in place of a result
  #caller = 0;

  constructor({ endpoint, schemaIsPublic }, credentials) {
    this.endpoint = endpoint;
    this.schemaIsPublic = schemaIsPublic;
    this.credentials = credentials;
  }

  // A new fetcher, for which GraphiQL fetches the schema again.
  fetcher() {
    const caller = ++this.#caller;
    return async ({ operationName, ...rest }, { headers = {} } = {}) => {
      if (operationName === "IntrospectionQuery") return this.#schema({ operationName, ...rest }, headers, caller);
      const price = this.priceOnly;
      this.priceOnly = false;
      const operation = operationOf(rest.query, operationName);
      // While somebody types, GraphiQL may still have the name of the operation before.
      const parameters = { ...rest, operationName: operation?.name?.value };
      if (operation?.operation === "subscription" && !price) return this.#events(parameters, headers);
      if (operation?.operation === "mutation" && !price && !(await this.#isConfirmed(operation, parameters))) {
        return { message: "Not sent." };
      }
      const result = await post(this.endpoint, this.credentials, parameters, {
        "X-Gateway-Cost": price ? "validate" : "report",
        ...headers,
      });
      this.answer.set(result);
      return result;
    };
  }

  // The result of a query of the page itself.
  ask = (parameters) => post(this.endpoint, this.credentials, parameters, {});

  async #schema(parameters, headers, caller) {
    const schema = await this.#schemaOrNeed(parameters, headers);
    if (caller !== this.#caller) return new Promise(() => {}); // GraphiQL would show an old token's error
    if (!schema.data) this.lastSchemaError = JSON.stringify(schema, null, 2);
    return schema;
  }

  async #schemaOrNeed(parameters, headers) {
    const hasHeaders = Object.keys(headers).length > 0;
    if (this.schemaIsPublic || hasHeaders || this.credentials.source !== "none") {
      return post(this.endpoint, this.credentials, parameters, headers);
    }
    this.credentials.judge(undefined, 401);
    return { errors: [{ message: this.credentials.need }] };
  }

  async *#events(parameters, headers) {
    const client = createClient({
      url: this.endpoint,
      retryAttempts: 0,
      headers: async () => {
        const authorization = await this.credentials.authorization();
        return { ...(authorization && { Authorization: authorization }), "X-Gateway-Cost": "report", ...headers };
      },
    });
    for await (const result of client.iterate(parameters)) {
      this.answer.set(result);
      yield result;
    }
  }

  #isConfirmed(operation, { variables }) {
    const fields = operation.selectionSet.selections.map(({ name }) => name?.value ?? "a fragment");
    return new Promise((resolve) => this.question.set({ fields, variables, resolve })).finally(() => this.question.set());
  }
}

// The operation that would run, by its name or as the only one; undefined if the document is invalid, which the gateway
// says better.
function operationOf(query, name) {
  try {
    const document = parse(query);
    return getOperationAST(document, name) ?? getOperationAST(document) ?? undefined;
  } catch {
    return undefined;
  }
}
