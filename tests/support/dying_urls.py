"""The service's routes. A request that says so kills its web process between the commit and the answer."""

import os
import signal

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from notifications import views
from notifier_project.urls import *  # noqa: F403 - the error pages
from notifier_project.urls import urlpatterns as routes


@csrf_exempt
async def send_notification(request: HttpRequest, email: str) -> HttpResponse:
    """Queue as the route does."""
    response = await views.send_notification(request, email)
    if "HTTP_X_DIE" in request.META:
        os.kill(os.getpid(), signal.SIGKILL)
    return response


urlpatterns = [path("send-notification/<str:email>", send_notification), *routes]
