"""`python3 -m compose_apps_preload`."""

import sys

from .cli import main

sys.exit(main())
