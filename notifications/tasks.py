"""What a worker calls: each takes plain values and makes one write to the log."""

from django.conf import settings

from notifications import logfile


def write_notification(email: str, message: str = "") -> None:
    """Replace the log with one notification, without a newline at its end."""
    logfile.replace(settings.NOTIFIER_LOG_FILE, f"notification for {email}: {message}".encode())


def write_log(message: str) -> None:
    """Append `message` to the log, as it is."""
    logfile.append(settings.NOTIFIER_LOG_FILE, message.encode())
