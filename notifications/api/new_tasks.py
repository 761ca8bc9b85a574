"""What clients send to queue tasks. What is wrong is said in pydantic's words, as FastAPI does.

Importing pydantic takes as long as a tenth of a start: the first request that needs it does that.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Literal

from django.utils import timezone
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticKnownError, from_json, to_json

from durable_queue.intake.together import NOW
from durable_queue.intake.together import NewTask as Queued
from notifications import programs
from notifications.http import CONTROL_CHARACTERS, Problem

FARTHEST = timedelta(days=3653)  # ten years
MOST = 1000  # tasks in one request
IN_EMAIL = r"^[^/\x00-\x1f\x7f-\x9f\u2028\u2029]+$"  # these two are for the schema; the validators say what is wrong
IN_QUERY = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"

_is_rfc_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII).fullmatch


def _has_no_control_characters(text: str) -> str:
    if CONTROL_CHARACTERS.search(text):
        raise PydanticCustomError("control_character", "Value should have no control characters")
    return text


def _is_one_segment(text: str) -> str:
    if "/" in text:
        raise PydanticCustomError("path_segment", "Value should have no slash")
    return text


def _is_moment(value: object) -> object:
    """Refuse what pydantic would take for a moment beyond RFC 3339, such as seconds since 1970."""
    if value is None:
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("datetime_type")
    if not _is_rfc_3339(value):
        raise PydanticKnownError("datetime_parsing", {"error": "which RFC 3339 does not allow"})
    return value


def _is_near(moment: datetime | None) -> datetime | None:
    if moment and moment > timezone.now() + FARTHEST:
        raise PydanticCustomError("too_far_ahead", "Input should be at most 10 years ahead")
    return moment


class NewTask(BaseModel):
    """A task to queue: what a POST to one of the two routes asks for, now or later."""

    model_config = ConfigDict(strict=True)

    program: Annotated[Literal["query", "basic"], Field(description="Append to the log, or replace it.")]
    email: Annotated[
        str,
        Field(min_length=1, description="As in the path of the routes.", json_schema_extra={"pattern": IN_EMAIL}),
        AfterValidator(_is_one_segment),
        AfterValidator(_has_no_control_characters),
    ]
    q: Annotated[
        Annotated[str, Field(json_schema_extra={"pattern": IN_QUERY}), AfterValidator(_has_no_control_characters)] | None,
        Field(description="As in the query of the route. The program `basic` does not write it."),
    ] = None
    delay: Annotated[
        Annotated[float, Field(ge=0, le=FARTHEST.total_seconds(), allow_inf_nan=False)] | None,
        Field(description="Seconds from now on until it is due; not with `at`."),
    ] = None
    at: Annotated[
        AwareDatetime | None,
        Field(strict=False, description="When it is due, as in RFC 3339; the past is now. At most 10 years ahead."),
        BeforeValidator(_is_moment),
        AfterValidator(_is_near),
    ] = None

    @model_validator(mode="after")
    def _is_due_once(self) -> "NewTask":
        if self.delay is not None and self.at is not None:
            raise PydanticCustomError("delay_and_at", "Input should have a delay or a moment, not both")
        return self

    def queued(self) -> Queued:
        """The task as the queue takes it."""
        tasks = programs.query(self.email, self.q) if self.program == "query" else programs.basic(self.email)
        return Queued(tasks=tasks, delay=timedelta(seconds=self.delay) if self.delay else NOW, at=self.at)


class NewTasks(BaseModel):
    """Tasks to queue together, all or none."""

    model_config = ConfigDict(strict=True)

    tasks: Annotated[list[NewTask], Field(min_length=1, max_length=MOST)]


def read(body: bytes, *, are_many: bool) -> tuple[list[NewTask], list[Problem]]:
    """The tasks that a body asks for, or what is wrong with it."""
    try:
        return (NewTasks.model_validate_json(body).tasks if are_many else [NewTask.model_validate_json(body)]), []
    except ValidationError as error:
        return [], [_problem(found) for found in error.errors(include_url=False)]


def _problem(found: ErrorDetails) -> Problem:
    """A problem in FastAPI's shape. The input is shown as JSON has it: a number that JSON lacks is null."""
    shown = {} if found["type"] == "json_invalid" else from_json(to_json(found["input"], inf_nan_mode="null"))
    problem: Problem = {"type": found["type"], "loc": ["body", *found["loc"]], "msg": found["msg"], "input": shown}
    if "ctx" in found:
        problem["ctx"] = found["ctx"]
    return problem
