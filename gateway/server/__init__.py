"""The HTTP server: uvicorn, bounded. Nothing of GraphQL."""
