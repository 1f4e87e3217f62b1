"""GraphQL documents and their execution. It knows GraphQL, and nothing of vehicles."""
