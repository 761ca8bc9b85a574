"""The tables that django-q2 lacks: of workers, of what became of tasks, of what users asked for, of the states of schedules."""

from django.db import models
from django.utils import timezone
from django_q.models import Schedule


class Worker(models.Model):
    """A worker process and the lease that it holds. Its row is deleted when the worker ends: that frees the lease."""

    name = models.CharField(max_length=32, unique=True, help_text="Also the name of its progress file.")
    queue = models.CharField(max_length=100, help_text="The queue that it takes tasks from.")
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    born = models.BigIntegerField(help_text="The process's start, in the kernel's ticks: a pid alone may be another's by now.")
    supervisor = models.UUIDField()
    supervisor_pid = models.IntegerField()
    restarts = models.IntegerField(default=0, help_text="How many workers its supervisor had replaced when it started.")
    started = models.DateTimeField()
    heartbeat = models.DateTimeField()
    lease = models.DateTimeField(null=True, help_text="The `lock` of the rows that it holds.")
    lease_due = models.DateTimeField(null=True, help_text="When the first of these rows was due.")
    in_hand = models.JSONField(
        default=dict, help_text="Since when it runs which task, of those that take longer; by their ids."
    )

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}"


class FailedAttempt(models.Model):
    """An attempt that did not succeed. A task that succeeds at its first attempt has none."""

    class Outcome(models.TextChoices):
        """How the attempt ended."""

        FAILED = "failed", "Failed"
        LOST = "lost", "Lost: its worker was killed"
        OVERDUE = "overdue", "Killed: it took too long"
        REFUSED = "refused", "Refused: it can't be run"
        CANCELLED = "cancelled", "Cancelled by a user"

    row = models.BigIntegerField(db_index=True, help_text="The queue row's id.")
    task_id = models.CharField(max_length=32, db_index=True, blank=True)
    number = models.PositiveIntegerField()
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    worker = models.CharField(max_length=300)
    started = models.DateTimeField()
    stopped = models.DateTimeField(db_index=True)
    error = models.TextField()

    class Meta:
        ordering = ("row", "number")

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.outcome}"


class DeadLetter(models.Model):
    """The queue row of a task that was refused, or cancelled before it was read, as it was.

    The failed task with the same id tells why.
    """

    task_id = models.CharField(max_length=32, db_index=True)
    queue = models.CharField(max_length=100)
    payload = models.TextField()
    reason = models.TextField()
    at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.task_id


class Note(models.Model):
    """A note on a task, whatever its outcome. The same note is kept once, however often it is made."""

    task_id = models.CharField(max_length=32)  # no index of its own: the constraint's index serves
    text = models.TextField()
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ("pk",)
        constraints = (models.UniqueConstraint(fields=("task_id", "text"), name="cluster_note_once"),)

    def __str__(self) -> str:
        return self.text


class Cancellation(models.Model):
    """A user's request to cancel a task. It is deleted when the task is retried, or pruned."""

    task_id = models.CharField(max_length=32, primary_key=True)
    requested = models.DateTimeField(default=timezone.now, db_index=True)
    by = models.CharField(max_length=150)
    why = models.TextField(blank=True)
    heeded = models.DateTimeField(
        null=True, help_text="When the task ended by it; none: not yet, or it ended as it would have."
    )

    def __str__(self) -> str:
        return f"cancelled by {self.by}" + (f": {self.why}" if self.why else "")


class PausedQueue(models.Model):
    """A queue that accepts tasks and runs none."""

    queue = models.CharField(max_length=100, primary_key=True)
    by = models.CharField(max_length=150)
    why = models.TextField(blank=True)
    since = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.queue}, paused by {self.by}"


class IdempotencyKey(models.Model):
    """A request that has queued tasks, and that a client may repeat: then nothing is queued again."""

    digest = models.CharField(max_length=64, primary_key=True, help_text="Of the key within its scope, in hexadecimal digits.")
    fingerprint = models.CharField(max_length=64, help_text="Of the request, in hexadecimal digits.")
    task_ids = models.TextField(help_text="Of the tasks that it has queued, each of 32 digits, without anything in between.")
    at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return self.digest


class Figure(models.Model):
    """A figure that upkeep publishes, so that nobody else has to count."""

    name = models.CharField(max_length=120, primary_key=True)
    value = models.BigIntegerField()
    at = models.DateTimeField(help_text="When it was right.")

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


class ScheduleState(models.Model):
    """What django-q2's row of a schedule lacks. A schedule without such a row has the defaults."""

    schedule = models.OneToOneField(
        Schedule, models.CASCADE, primary_key=True, related_name="+", db_constraint=False, help_text="Its row may go first."
    )
    zone = models.CharField(max_length=64, blank=True, help_text="Whose wall clock it keeps; empty: NOTIFIER_TIME_ZONE.")
    anchor = models.DateTimeField(null=True, help_text="The moment whose time of day and day of the month it keeps.")
    computed = models.DateTimeField(null=True, help_text="The `next_run` computed last; another one was set by somebody.")
    last_run = models.DateTimeField(null=True, help_text="The moment, by its rule, that was run last.")
    paused_by = models.CharField(max_length=150, blank=True)
    paused_at = models.DateTimeField(null=True, help_text="Since when it is paused; none: it is not.")
    problem = models.TextField(blank=True, help_text="Why it can't be run.")
    problem_fingerprint = models.CharField(max_length=64, blank=True, help_text="Of the rule that was found broken.")
    problem_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"the state of schedule {self.schedule_id}"
