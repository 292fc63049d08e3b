"""The coordinator: one process with the HTTP API, the store and the scheduler."""
