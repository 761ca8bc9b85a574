"""The routes of the two programs and of the API, and the pages that describe them.

`/basic/…` always exists; NOTIFIER_ROOT says what the bare path serves.
"""

from django.conf import settings
from django.urls import URLPattern, include, path, re_path

from notifications import views
from notifications.http import View
from notifications.openapi import pages


def routes(view: View) -> list[URLPattern]:
    """A program's route, and FastAPI's redirect for the same path with trailing slashes."""
    return [
        path("send-notification/<str:email>", view),
        re_path(r"^send-notification/[^/]+/+\Z", views.redirect_without_slash),
    ]


basic = routes(views.send_basic_notification)
query = routes(views.send_notification)

urlpatterns = [
    *{"basic": basic, "query": query}[settings.NOTIFIER_ROOT],
    path("basic/", include(basic)),
    path("", include("notifications.api.urls")),
    *pages.urlpatterns,
]
