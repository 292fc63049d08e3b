"""The ways in which a runner starts a task's process, behind one `Launcher` protocol."""
