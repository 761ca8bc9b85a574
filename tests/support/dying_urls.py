"""The service's routes. A web process is killed between a commit and its answer, once for each file that says so."""

import os
import signal
from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from notifications import views
from notifier_project.urls import *  # noqa: F403 - the error pages
from notifier_project.urls import urlpatterns as routes


@csrf_exempt
async def send_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Queue as the route does. Then die, if there is the file that says so; it is gone then."""
    response = await views.send_notification(request, email)
    try:
        Path(os.environ["DIE"]).unlink()
    except FileNotFoundError:
        return response
    os.kill(os.getpid(), signal.SIGKILL)
    return response


urlpatterns = [path("send-notification/<str:email>", send_notification), *routes]
