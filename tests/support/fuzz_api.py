"""Random requests, made from the service's own description, right and wrong ones: each answer must be one that it describes."""

import random
import threading
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

AnyCase = Case[Any]

CHECKS = [
    checks.status_code_conformance,  # 500 is in no description
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
AT_A_TIME = 500  # requests that are made up before they are sent: what makes them up is not for threads
ALONE = {"Connection": "close"}  # else one that was idle for 5 s may be closed just when the next request goes out on it
SECONDS = 60.0  # that an answer may take, on a machine that does many other things


@dataclass(kw_only=True)
class Result:
    """What the requests came to."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by operation and status
    findings: dict[str, str] = field(default_factory=dict)  # an example of each kind
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=1000))  # of tasks that were seen last
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cases(self) -> int:
        """How many requests were made."""
        return sum(self.answers.values())

    def statuses(self) -> dict[int, int]:
        """How often each status came."""
        found: Counter[int] = Counter()
        for (_, status), times in self.answers.items():
            found[status] += times
        return dict(sorted(found.items()))


def fuzz(url: str, token: str, *, cases: int, at_once: int, start: int) -> Result:
    """Make so many requests, `at_once` at a time; the token comes with most of them. `start`: a seed."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = list(schema.get_all_operations())
    operations = [one.ok() for one in found if isinstance(one, Ok)]
    assert len(operations) == len(found), "a part of the description is wrong"
    modes = [GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    strategies = [operation.as_strategy(mode) for operation in operations for mode in modes]
    result, chance = Result(), random.Random(start)
    with ThreadPoolExecutor(at_once) as clients, requests.Session() as session:
        while result.cases < cases:
            made_up = make_up(strategies, min(AT_A_TIME, cases - result.cases), chance)
            for case in made_up:
                aim(case, result, chance)
            headers = [ALONE | ({"Authorization": f"Bearer {token}"} if chance.random() < 0.95 else {}) for _ in made_up]
            list(clients.map(lambda case, more: ask(url, session, case, more, result), made_up, headers))
    return result


def make_up(strategies: list[st.SearchStrategy[AnyCase]], most: int, chance: random.Random) -> list[AnyCase]:
    """Some requests, not more than `most`."""
    made_up: list[AnyCase] = []

    @seed(chance.getrandbits(32))
    @settings(max_examples=most, phases=[Phase.generate], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(strategies))
    def note(case: AnyCase) -> None:
        made_up.append(case)

    note()
    return made_up[:most]


def ask(url: str, session: requests.Session, case: AnyCase, headers: dict[str, str], result: Result) -> None:
    """Make a request, and note what came of it."""
    kind, status, said = "", 0, ""
    ids: list[str] = []
    try:
        response = case.call(base_url=url, session=session, headers=headers, timeout=SECONDS, allow_redirects=False)
        status, said, ids = response.status_code, response.text, ids_in(response)
        case.validate_response(response, checks=CHECKS)
    except requests.RequestException as error:
        kind = repr(error)
    except (Failure, FailureGroup) as failure:
        kind = "; ".join(str(each).partition("\n\n    {")[0] for each in getattr(failure, "exceptions", [failure]))
    with result.lock:
        result.answers[case.operation.label, status] += 1
        result.ids += ids
        if kind and (label := f"{case.operation.label}: {status} {kind}") not in result.findings:
            result.findings[label] = f"{label}\n{said[:300]}\n{case.as_curl_command(headers)}"


def aim(case: AnyCase, result: Result, chance: random.Random) -> None:
    """Most often ask for a task that there is, and never wait long."""
    if "id" in case.path_parameters and result.ids and chance.random() < 0.8:
        case.path_parameters["id"] = chance.choice(result.ids)
    query: dict[str, Any] = case.query
    if isinstance(wait := query.get("wait"), int | float) and 1 < wait <= 30:
        query["wait"] = wait / 100
    if "wait" in str(case.headers.get("Prefer")).lower():
        case.headers["Prefer"] = "wait=0"


def ids_in(response: Any) -> list[str]:
    """The ids of the tasks that an answer names."""
    found = [value for values in [response.headers.get("task-id", [])] for value in values]
    if response.status_code in (200, 202):
        body = response.json()
        tasks = [body, *body.get("tasks", [])[:3]]
        found += [task["id"] for task in tasks if "id" in task]
    return found
