#!/usr/bin/python3
import sys

sys.path.insert(0, "/usr/share/compose-apps-preload")

from compose_apps_preload.cli import main

sys.exit(main())
