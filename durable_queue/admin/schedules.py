"""The page of schedules: django-q2's page, with our form, and with what our scheduler knows of each."""

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django_q.admin import ScheduleAdmin as DjangoQScheduleAdmin
from django_q.conf import Conf
from django_q.models import Schedule

from durable_queue.admin.addresses import CheckedAddresses
from durable_queue.admin.pages import moment
from durable_queue.admin.schedule_form import ScheduleForm
from durable_queue.models import Worker
from durable_queue.schedule import loaded, pausing, rule
from durable_queue.schedule.due import zone_name
from durable_queue.schedule.moments import LATEST, aware, readable, set_next_run, with_text
from durable_queue.schedule.stored import anchor_of, problem_of, rule_of, state_of, states_of
from durable_queue.schedule.zones import zone_named

COMING = 5  # runs that a page shows
NEVER = "never"


class ScheduleList(ChangeList):
    """A page of the list, with the states of its schedules, and what clusters are served."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the states of all of them at once."""
        super().get_results(request)
        self.result_list = list(self.result_list)
        states = states_of([schedule.pk for schedule in self.result_list], self.queryset.db)
        served = _served(self.queryset.db)
        for schedule in self.result_list:
            schedule.func = str(schedule.func)  # which is its name: Django wants a text, and SQLite takes a blob
            schedule.kept = states.get(schedule.pk)
            schedule.is_served = _is_served(schedule, served)


class ScheduleAdmin(CheckedAddresses, DjangoQScheduleAdmin):  # type: ignore[misc]
    """The page of schedules. It shows every row, whatever stands in it."""

    form = ScheduleForm
    list_display = ("label", "due", "standing", "get_last_run", "get_success")
    list_display_links = ("label",)
    list_filter = ("schedule_type",)
    actions = ("pause", "resume")
    readonly_fields = ("standing", "coming", "get_last_run")
    fieldsets = (
        (None, {"fields": ("name", "func", "args", "kwargs", "hook")}),
        ("When", {"fields": ("schedule_type", "minutes", "cron", "zone", "next_run", "repeats")}),
        ("More", {"fields": ("cluster", "intended_date_kwarg")}),
    )

    class Media:
        css = {"all": ("durable_queue/admin.css",)}  # noqa: RUF012 - as Django wants it

    # Reading.

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The schedules, also those whose `next_run` is a moment that can't be read."""
        return with_text(super().get_queryset(request))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """The list's own class."""
        return ScheduleList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The schedule of this page, with its state."""
        schedule = super().get_object(request, object_id, from_field)
        if schedule is not None:
            schedule.func = str(schedule.func)
            loaded.remember(set_next_run(schedule))
            schedule.kept = state_of(schedule.pk, schedule._state.db)
            schedule.is_served = _is_served(schedule, _served(schedule._state.db))
        return schedule

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """The form; below it, what is known of a schedule that exists."""
        known = [("State", {"fields": self.readonly_fields})] if obj else []
        return [*self.fieldsets, *known]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, with "Scheduled tasks" as its title."""
        return super().changelist_view(request, {"title": "Scheduled tasks", **(extra_context or {})})

    # Changing.

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """The page of one, or of a new one. What saving refuses though the form did not, others have changed meanwhile."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except ValidationError as error:
            self.message_user(request, f"It was not saved: {' '.join(error.messages)}", messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        except Schedule.DoesNotExist as error:
            self.message_user(request, f"It was not saved: {error}", messages.ERROR)
            return HttpResponseRedirect(reverse("admin:django_q_schedule_changelist"))

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save it, and say when it runs if that is not what was typed, or at once."""
        super().save_model(request, obj, form, change)
        given, next_run = form.cleaned_data.get("next_run"), aware(obj.next_run)
        if next_run is None or obj.repeats == 0:
            self.message_user(request, "It never runs: it has no next run, or no repeats.", messages.WARNING)
        elif next_run <= timezone.now():
            self.message_user(request, "Its next run is due: it runs at once, unless it is paused.", messages.WARNING)
        elif given and next_run != aware(given):
            self.message_user(request, f"It runs next at {moment(next_run)}.")

    @admin.action(description="Pause selected schedules", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have them not run until they are resumed."""
        ids = list(queryset.values_list("pk", flat=True))
        paused = pausing.pause(ids, by=request.user.get_username(), using=queryset.db)
        self.message_user(request, f"{paused} of {len(ids)} were paused; the others were paused before.")

    @admin.action(description="Resume selected schedules", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have them run again from now on."""
        ids = list(queryset.values_list("pk", flat=True))
        resumed = pausing.resume(ids, by=request.user.get_username(), using=queryset.db)
        self.message_user(request, f"{resumed} of {len(ids)} were resumed; the others were not paused.")

    # Showing.

    @admin.display(description="Task", ordering="func")
    def label(self, schedule: Any) -> str:
        """The schedule's name, if it has one, and its function."""
        return f"{schedule.name}: {schedule.func}" if schedule.name else str(schedule.func or "without a function")

    @admin.display(description="Next run", ordering="next_run")
    def due(self, schedule: Any) -> str:
        """When the schedule's next task will be enqueued."""
        if schedule.repeats == 0 or schedule.next_run_text is None:
            return NEVER
        at = readable(schedule)
        return moment(at) if at else f"can't be read: {schedule.next_run_text}"

    @admin.display(description="State")
    def standing(self, schedule: Any) -> str | None:
        """Why it does not run: it is broken, paused, or nobody serves its cluster."""
        state, said = schedule.kept, []
        if problem := problem_of(schedule, state):
            said.append(f"Problem since {moment(state.problem_at)}: {problem}" if state.problem_at else f"Problem: {problem}")
        if state and state.paused_at:
            said.append(f"Paused by {state.paused_by or 'nobody known'} since {moment(state.paused_at)}")
        if not schedule.is_served:
            said.append(f"No cluster {schedule.cluster} runs: nobody reads this schedule")
        return "; ".join(said) or None

    @admin.display(description="Next runs")
    def coming(self, schedule: Any) -> SafeString | None:
        """The next runs, by the clock of its zone, if nobody changes it."""
        try:
            zone = zone_named(self.zone(schedule))
            runs = _coming(schedule, self.zone(schedule))
        except rule.RuleError:
            return None
        return format_html_join("", "<div>{}</div>", ((f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}",) for at in runs)) or None

    @admin.display(description="Time zone")
    def zone(self, schedule: Any) -> str:
        """The zone whose clock it follows, for those who may not change it."""
        return zone_name(schedule.kept.zone if schedule.kept else "")

    @admin.display(description="Last run")
    def get_last_run(self, schedule: Any) -> Any:
        """The schedule's last task, if that task has ended."""
        return super().get_last_run(schedule)

    @admin.display(description="Succeeded", boolean=True)
    def get_success(self, schedule: Any) -> Any:
        """Whether that task succeeded."""
        return super().get_success(schedule)


def _coming(schedule: Any, zone: str) -> list[datetime]:
    """The next runs. Raises RuleError."""
    at = readable(schedule)
    if at is None or schedule.repeats == 0:
        return []
    runs = [at]
    if schedule.schedule_type != Schedule.ONCE:
        own = rule_of(schedule, zone, anchor_of(schedule.kept, at))
        rule.check(own.kind, own.minutes, own.cron)
        while len(runs) < COMING and at is not None:
            at = rule.next_after(own, at if Conf.CATCH_UP else max(at, timezone.now()))
            runs += [at] if at and at < LATEST else []
    return runs[: schedule.repeats] if isinstance(schedule.repeats, int) and schedule.repeats > 0 else runs


def _served(using: str) -> set[str]:
    return set(Worker.objects.using(using).values_list("queue", flat=True).distinct())


def _is_served(schedule: Any, served: set[str]) -> bool:
    """Whether a worker serves the cluster that it names. (Where no worker runs at all, the page of workers says so.)"""
    return schedule.cluster in (None, "", Conf.PREFIX, *served)
