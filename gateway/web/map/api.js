// The operations of the map, and how they are sent. The token is kept in this page's memory, never in a URL or storage.

const { endpoint, token: given } = JSON.parse(document.body.dataset.config);
let token = given;

export const hasToken = () => Boolean(token);
export const useToken = (typed) => (token = typed.trim().replace(/^Bearer\s+/i, ""));

export const VEHICLES = `
query MapVehicles(
  $where: VehicleFilter, $orderBy: [VehicleOrder!], $first: Int, $after: String, $last: Int, $before: String
) {
  vehicles(where: $where, orderBy: $orderBy, first: $first, after: $after, last: $last, before: $before) {
    totalCount
    edges {
      cursor
      node {
        id
        vehicleId
        masterData { brand model licensePlate }
        lifeStatus { value }
        operationStatus { value }
        rentalStatus { value }
        latestState { position { value { lat lon } } stateOfChargeOrFuelLevelInPercent { value } }
      }
    }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}`;

export const POINTS = `
query MapPoints($where: VehicleFilter, $after: String) {
  vehicles(where: $where, first: 500, after: $after) {
    totalCount
    edges {
      node {
        id
        lifeStatus { value }
        operationStatus { value }
        rentalStatus { value }
        latestState { position { value { lat lon } } }
      }
    }
    pageInfo { hasNextPage endCursor }
  }
}`;

export const TOTALS = `
query MapTotals($where: VehicleFilter) {
  fleet {
    vehicleCount
    completeAsOf
    brands: counts(by: [BRAND]) { key count }
    counts(by: [OPERATION_STATUS, RENTAL_STATUS, LIFE_STATUS], where: $where) { key count }
  }
}`;

export const VEHICLE = `
query MapVehicle($id: ID!) {
  node(id: $id) {
    ... on Vehicle {
      vehicleId
      lastContactAt
      tags
      masterData { brand model licensePlate customName }
      lifeStatus { value }
      operationStatus { value }
      rentalStatus { value }
      latestState {
        position { value { lat lon } timestamp }
        stateOfChargeOrFuelLevelInPercent { value }
        mileageInKilometers { value }
      }
    }
  }
}`;

// The first error of a response. A user interface decides by its code: docs/front-end.md.
export class Failure extends Error {
  constructor({ message, extensions = {} }) {
    super(message);
    Object.assign(this, { code: extensions.code, retryable: extensions.retryable, extensions });
  }

  get startsOver() {
    return ["CURSOR_EXPIRED", "CURSOR_INVALID", "CURSOR_FOREIGN"].includes(this.code);
  }

  get text() {
    const { pagesRead, vehiclesRead, cause, retryAfter } = this.extensions;
    const later = retryAfter ? ` Try again in ${Math.ceil(retryAfter)} s.` : "";
    switch (this.code) {
      case "UNAUTHENTICATED":
        return "The token is missing or no longer valid.";
      case "FORBIDDEN":
        return "This token may not read vehicles.";
      case "FLEET_INCOMPLETE":
        return `Only ${vehiclesRead} vehicles (${pagesRead} pages) could be read, so there is no answer: ${cause}.${later}`;
      default:
        return `${this.message}${this.code ? ` (${this.code})` : ""}${later}`;
    }
  }
}

// Sends an operation; returns its data and what it cost. Throws Failure, also for a partial answer.
export async function ask(query, variables, signal) {
  let result;
  try {
    const response = await fetch(endpoint, {
      method: "POST",
      headers: {
        Accept: "application/graphql-response+json",
        Authorization: `Bearer ${token}`,
        "Content-Type": "application/json",
        "X-Gateway-Cost": "report",
      },
      body: JSON.stringify({ query, variables }),
      signal,
    });
    result = await response.json();
  } catch (failure) {
    if (signal?.aborted) throw failure;
    throw new Failure({ message: "The gateway can't be reached.", extensions: { retryable: true } });
  }
  if (result.errors?.length) throw new Failure(result.errors[0]);
  return { data: result.data, ...result.extensions };
}
