"""The service's settings, with views of the tests' own in front of its URLs."""

from notifier_project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.gate_urls"
