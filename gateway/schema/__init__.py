"""The GraphQL side: queries, types, loaders and the mapping of Relay connections onto upstream pages."""
