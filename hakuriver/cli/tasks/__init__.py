"""What ``hakuriver.client`` does: it submits tasks, and shows and watches them and the nodes."""
