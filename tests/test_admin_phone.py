"""The admin's pages in a browser as wide as a phone."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from playwright.sync_api import Page, sync_playwright
from pytest_django.live_server_helper import LiveServer

from durable_queue.models import ScheduleState
from tests.support import selection
from tests.support.admin_site import LISTS, TRACEBACK, post, settle, take

pytestmark = [pytest.mark.django_db, selection.once]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's browser."""
    return selection.installed("chromium", "chromium")


@contextmanager
def phone(chromium: str, url: str) -> Iterator[Page]:
    """A tab of a browser as wide as a phone, logged in. (No database here: Playwright keeps an event loop running.)"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844}, base_url=url)
        tab.goto(reverse("admin:login"))
        tab.fill("#id_username", "admin")
        tab.fill("#id_password", "password")
        tab.click("[type=submit]")
        yield tab
        browser.close()


@pytest.mark.timeout(600)  # a browser may have to be installed first
@pytest.mark.django_db(transaction=True)
def test_pages__fit_a_phone(live_server: LiveServer, admin_user: User, chromium: str) -> None:
    long = "a" * 60 + "@" + "b" * 60 + ".example.com"
    failed = post(long)
    settle(error=f"{'/folder' * 60}: {TRACEBACK}")
    done = post(long)
    settle(result=[long] * 50)
    post(long)
    worker = take(1)
    queued = OrmQ.objects.get().pk
    schedule = Schedule.objects.create(
        func=f"no_such_module.{'b' * 200}", name=long[:100], args=repr(long), cluster="c" * 100
    ).pk
    assert ScheduleState.objects.filter(pk=schedule).update(paused_by="d" * 150, paused_at=timezone.now())
    urls = [
        reverse("admin:index"),
        reverse("admin:django_q_schedule_add"),
        reverse("admin:django_q_failure_delete", args=[failed]),
    ]
    urls += [reverse(f"admin:{name}_changelist") for name in LISTS]
    keys = zip(LISTS, [queued, done, failed, schedule, worker.pk], strict=True)
    urls += [reverse(f"admin:{name}_change", args=[key]) for name, key in keys]
    widths = {}
    with phone(chromium, live_server.url) as tab:
        for url in urls:
            response = tab.goto(url)
            assert response
            assert response.status == 200
            widths[url] = tab.evaluate("document.documentElement.scrollWidth")
            assert tab.evaluate("document.styleSheets.length"), f"{url} has no style"
        tab.goto(reverse("admin:django_q_failure_change", args=[failed]))
        font, lines = tab.evaluate("(s => [s.fontFamily, s.whiteSpace])(getComputedStyle(document.querySelector('pre')))")
    assert {url: width for url, width in widths.items() if width > 390} == {}
    assert "monospace" in font
    assert lines.startswith("pre-wrap")
