#!/usr/bin/env python
"""Django's command line for this project: `manage.py help` lists what it can do."""

import os
import signal
import sys

if __name__ == "__main__":
    if "qcluster" in sys.argv[:2]:
        # A stop may come while Django boots. Nothing is running yet, and so nothing is left to do.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))

    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")
    execute_from_command_line(sys.argv)
