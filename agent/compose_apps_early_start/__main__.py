"""`python3 -m compose_apps_early_start`: the agent without installing it."""

import sys

from .cli import main

sys.exit(main())
