"""The HTTP server: uvicorn with limits, independent of GraphQL."""
