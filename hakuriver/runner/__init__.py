"""The agent on a compute machine: starts, watches and ends tasks, and tells the host."""
