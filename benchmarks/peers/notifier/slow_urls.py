"""The service's routes, and one for slow jobs: what FastAPI's program has in benchmarks/peers/fastapi_program/slow_web.py."""

import slow
from django.http import HttpRequest, HttpResponse
from django.urls import path

from durable_queue import BackgroundTasks
from notifications.http import post_only
from notifications.views import answer_when_queued
from notifier_project.urls import *  # noqa: F403 - the error pages
from notifier_project.urls import urlpatterns as routes


@post_only
async def post(request: HttpRequest, job: str, seconds: str, number: int) -> HttpResponse:
    """Queue the job, then answer."""
    tasks = BackgroundTasks(name=f"{job} {number}")
    tasks.add_task(slow.JOBS[job], number, float(seconds))
    return await answer_when_queued(request, tasks, "Queued")


urlpatterns = [path("slow/<str:job>/<str:seconds>/<int:number>", post), *routes]
