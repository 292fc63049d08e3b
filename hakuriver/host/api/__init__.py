"""The HTTP API, a module a resource; each ends with its routes."""
