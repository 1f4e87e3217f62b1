"""The HTTP server and the GraphQL endpoint."""
