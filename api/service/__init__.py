"""What the routes delegate to."""
