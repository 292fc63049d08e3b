"""The vocabulary that every part shares: pure values and rules, no input or output."""
