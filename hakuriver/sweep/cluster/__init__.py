"""The combinations of a sweep as tasks of a cluster."""
