"""The app's registration."""

from django.apps import AppConfig


class ClusterConfig(AppConfig):
    """Runs what is queued."""

    name = "notifications.cluster"
    label = "cluster"
