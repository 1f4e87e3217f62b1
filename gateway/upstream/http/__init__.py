"""HTTP calls to the fleet API."""
