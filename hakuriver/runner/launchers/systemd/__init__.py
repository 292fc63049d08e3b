"""Tasks as units of systemd: the launchers ``service`` and ``scope``."""
