"""``python -m hakuriver``: the same as ``hakuriver``."""

import sys

from hakuriver.cli.umbrella import main

sys.exit(main())
