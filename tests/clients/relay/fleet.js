// What relay-compiler compiles for paging.mjs: a connection, both ways, and an object refetched through node(id:).
import { graphql } from "relay-runtime";

graphql`
  query FleetQuery(
    $first: Int
    $after: String
    $last: Int
    $before: String
    $where: VehicleFilter
    $orderBy: [VehicleOrder!]
  ) {
    vehicles(first: $first, after: $after, last: $last, before: $before, where: $where, orderBy: $orderBy)
      @connection(key: "Fleet_vehicles", filters: ["where", "orderBy"]) {
      edges {
        node {
          id
          vehicleId
        }
      }
    }
  }
`;

graphql`
  fragment fleet_vehicle on Vehicle @refetchable(queryName: "RefetchQuery") {
    id
    vehicleId
  }
`;

// What it compiles for mutations.mjs.
graphql`
  query ReadQuery($id: ID!) {
    vehicle(id: $id) {
      id
      version
      tags
    }
  }
`;

graphql`
  mutation WriteMutation($input: UpdateVehicleInput!) {
    updateVehicle(input: $input) {
      outcome
      vehicle {
        id
        version
        tags
      }
      userErrors {
        code
      }
    }
  }
`;
