"""HakuRiver: a small self-hosted cluster manager that is driven from the notebook."""

from hakuriver._version import __version__

__all__ = ["__version__"]
