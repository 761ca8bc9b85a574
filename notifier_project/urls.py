"""The root URL table: the notification routes and the admin. Every other path gets an error in JSON."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

handler400 = "notifications.http.bad_request"
handler403 = "notifications.http.forbidden"
handler404 = "notifications.http.not_found"
handler500 = "notifications.http.server_error"

ADMIN = settings.ADMIN_PATH.strip("/")

urlpatterns = [
    path("", include("notifications.urls")),
    path(ADMIN, RedirectView.as_view(pattern_name="admin:index")),
    path(f"{ADMIN}/", admin.site.urls),
]
