"""The GraphQL schema: queries, types, loaders, and Relay connections over upstream pages."""
