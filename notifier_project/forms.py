"""The page that people get when a form of the admin is refused since it seems to come from elsewhere."""

from django.http import HttpRequest, HttpResponse


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say why, and what to set behind a proxy. `CSRF_FAILURE_VIEW` names it."""
    here = f"{request.scheme}://{request.META.get('HTTP_HOST', '')}"
    origin = request.headers.get("Origin", "")
    lines = [f"This form was refused (403): {reason}", ""]
    if origin and origin not in (here, "null"):
        lines += [
            f"The form's page is at {origin}, and the service takes itself to be at {here}.",
            "If both are the same service, behind a proxy, whoever runs it can start it with:",
            "",
            f"  NOTIFIER_TRUSTED_ORIGINS={origin}",
            "",
            "or let the proxy send X-Forwarded-Proto and X-Forwarded-Host, and name its address in NOTIFIER_TRUSTED_PROXIES.",
        ]
    else:
        lines += [
            "Allow cookies for this site, go back, reload the page, and send the form again.",
            "Behind a proxy, the setting NOTIFIER_TRUSTED_ORIGINS names the address that people see: https://notify.example.com",
        ]
    return HttpResponse("\n".join(lines) + "\n", status=403, content_type="text/plain; charset=utf-8")
