"""HakuRiver inside Jupyter: the magics that run a cell on the cluster."""
