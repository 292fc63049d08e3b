"""What makes a cluster and its nodes: files of settings, secrets, certificates, joining."""
