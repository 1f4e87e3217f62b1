"""What keeps the gateway responsive under more load than it can serve."""
