"""What one principal's fleet looks like: filters, order, totals and places, in an in-memory SQLite database."""
