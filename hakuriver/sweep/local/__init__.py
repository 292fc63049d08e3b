"""The combinations of a sweep as processes of this machine."""
