"""The fleet's REST API: one method an endpoint, on behalf of one caller."""
