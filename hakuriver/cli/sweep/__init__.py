"""What ``hakurun`` shows on a terminal: its arguments, a run, and what came of one."""
