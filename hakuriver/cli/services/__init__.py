"""``hakuriver.init service``: units for systemd, and what is to be done with them."""
