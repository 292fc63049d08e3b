"""The commands, one module each; `options` is shared with the notebook's magics."""
