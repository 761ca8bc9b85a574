"""The service's URLs, and a view that keeps a thread of the API busy."""

import os
import time

from django.http import HttpRequest, HttpResponse
from django.urls import path

from notifications.api import waiting
from notifications.http import JSON
from notifier_project.urls import handler400, handler403, handler404, handler500  # noqa: F401 - Django looks for them here
from notifier_project.urls import urlpatterns as service_urls

waiting.MOST = int(os.environ.get("TEST_MOST_WAITING", waiting.MOST))  # a limit that a test can reach


def hang(request: HttpRequest) -> HttpResponse:
    """Keep a thread busy for longer than any test takes."""
    time.sleep(60)
    return JSON("never")


urlpatterns = [path("tasks/hang", hang), *service_urls]
