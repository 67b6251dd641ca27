"""What keeps a Ray that waits for the next test from computing."""

IDLE_RAY = {"REPORTER_UPDATE_INTERVAL_MS": "120000"}  # its figures about all processes, else every 5 s
