"""An embedded cluster: a host and runners on this machine, for one user, without root or systemd.

`up` starts them as processes of their own, which outlive the caller; `down` ends them and their
tasks.
"""

from hakuriver.embedded.cluster import Embedded, down, up

__all__ = ["Embedded", "down", "up"]
