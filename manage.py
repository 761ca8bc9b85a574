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

    if web_socket := os.environ.pop("WEB_SOCKET", None):
        os.close(int(web_socket))  # the process manager's other programs have it, and a task's children would keep the port

    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")
    execute_from_command_line(sys.argv)
