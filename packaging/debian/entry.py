#!/usr/bin/python3
import sys

from compose_apps_early_start.cli import main

sys.exit(main())
