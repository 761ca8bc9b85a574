"""The service's settings, with the routes of tests/support/dying_urls.py."""

from notifier_project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.support.dying_urls"
