"""What commands have in common: how they start, fail and log, and what they print."""
