"""The WSGI application: `granian --interface wsgi notifier_project.wsgi:application`, or any other server."""

import multiprocessing
import os
import threading

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notifier_project.settings")


def exit_with_parent() -> None:
    """End this web process when the one that forked it is gone.

    Granian's workers outlive a killed main process and keep its port, so that a new one can't take its place.
    A server that isn't built on multiprocessing has no such parent, and nothing happens.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_then_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_then_exit, daemon=True).start()


exit_with_parent()
application = get_wsgi_application()
