"""The road in: HTTP to GraphQL and back."""
