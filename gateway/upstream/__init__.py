"""The client of the fleet's REST API, with one method per endpoint."""
