"""Fixtures that every suite may ask for."""

pytest_plugins = ["tests.servers", "tests.ray_server"]
