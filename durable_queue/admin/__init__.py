"""The admin's pages of queued, finished and scheduled tasks. They replace django-q2's own.

django-q2's pages list each distinct group next to the table, unpickle every value that they show, and count every row.
"""

from django.contrib import admin
from django_q import admin as django_q_admin  # noqa: F401 - registers its pages first, in any order of apps
from django_q.models import Failure, OrmQ, Schedule, Success

from durable_queue.admin.history import FailureAdmin, SuccessAdmin
from durable_queue.admin.queue import QueueAdmin
from durable_queue.admin.schedules import ScheduleAdmin
from durable_queue.admin.workers import WorkerAdmin
from durable_queue.models import Worker

for model in (OrmQ, Success, Failure, Schedule):
    if admin.site.is_registered(model):
        admin.site.unregister(model)

admin.site.register(OrmQ, QueueAdmin)
admin.site.register(Success, SuccessAdmin)
admin.site.register(Failure, FailureAdmin)
admin.site.register(Schedule, ScheduleAdmin)
admin.site.register(Worker, WorkerAdmin)
