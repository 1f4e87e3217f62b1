"""Documents and their execution. This package depends on GraphQL but not on vehicles."""
