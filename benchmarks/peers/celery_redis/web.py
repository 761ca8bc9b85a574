"""The same endpoint with Celery behind it: a Django of one view, for the web server that Notifier has."""

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, JsonResponse
from django.urls import path
from jobs import enqueue

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="benchmark", ALLOWED_HOSTS=["127.0.0.1"])  # noqa: S106 - nobody else's
django.setup()


def send_notification(request: HttpRequest, email: str) -> JsonResponse:
    """Queue a line."""
    enqueue(f"message to {email}\n")
    return JsonResponse({"message": "Message sent"})


urlpatterns = [path("send-notification/<str:email>", send_notification)]
application = ASGIHandler()
