"""Random requests, made from the service's own description, right and wrong ones: each answer must be one that it describes."""

import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi import checks

CHECKS = [
    checks.status_code_conformance,  # 500 is in no description
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
AT_A_TIME = 50  # requests that a client makes until it begins anew
SECONDS = 60.0  # that an answer may take, on a machine that does many other things


@dataclass(kw_only=True)
class Result:
    """What the requests came to."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by operation and status
    findings: list[str] = field(default_factory=list)
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=1000))  # of tasks that were seen last
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cases(self) -> int:
        """How many requests were answered, rightly or wrongly."""
        return sum(self.answers.values())

    def statuses(self) -> dict[int, int]:
        """How often each status came."""
        found: Counter[int] = Counter()
        for (_, status), times in self.answers.items():
            found[status] += times
        return dict(sorted(found.items()))


def fuzz(url: str, *, cases: int, at_once: int, start: int, token: str | None = None) -> Result:
    """Make so many requests, `at_once` at a time. `start`: the first seed. `token`: comes with most of them."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    modes = [GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    strategies = [operation.as_strategy(mode) for operation in operations for mode in modes]
    result = Result()

    def work(client: int) -> None:
        chance = random.Random(start + client)
        with requests.Session() as session:
            while result.cases < cases:
                run = _client(url, result, st.one_of(strategies), chance, session, token)
                seed(chance.getrandbits(32))(run)()

    with ThreadPoolExecutor(at_once) as clients:
        for worked in [clients.submit(work, client) for client in range(at_once)]:
            worked.result()
    return result


def _client(
    url: str, result: Result, cases: Any, chance: random.Random, session: requests.Session, token: str | None
) -> Callable[[], None]:
    """What makes some requests, one after the other."""

    @settings(
        max_examples=AT_A_TIME,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Case) -> None:
        aim(case, result, chance)
        headers = {"Authorization": f"Bearer {token}"} if token and chance.random() < 0.95 else {}
        finding = ""
        try:
            response = case.call(base_url=url, session=session, headers=headers, timeout=SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            with result.lock:
                result.answers[case.operation.label, 0] += 1
                result.findings.append(f"{case.operation.label}: {error!r}\n{case.as_curl_command(headers)}")
            return
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            said = [str(each) for each in getattr(failure, "exceptions", [failure])]
            finding = f"{case.operation.label}: {response.status_code} {response.text[:300]}\n{said}\n"
            finding += case.as_curl_command(headers)
        with result.lock:
            result.answers[case.operation.label, response.status_code] += 1
            result.findings += [finding] if finding else []
            result.ids += _ids(response)

    run: Callable[[], None] = ask
    return run


def aim(case: Case, result: Result, chance: random.Random) -> None:
    """Most often ask for a task that there is, and never wait long."""
    if "id" in case.path_parameters and result.ids and chance.random() < 0.8:
        case.path_parameters["id"] = chance.choice(result.ids)
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and 1 < wait <= 30:
        case.query["wait"] = wait / 100
    prefer = (case.headers or {}).get("Prefer")
    if isinstance(prefer, str) and "wait" in prefer.lower():
        case.headers["Prefer"] = "wait=0"


def _ids(response: Any) -> list[str]:
    """The ids of the tasks that an answer names."""
    found = [value for values in [response.headers.get("task-id", [])] for value in values]
    if response.status_code in (200, 202):
        body = response.json()
        tasks = [body, *body.get("tasks", [])[:3]]
        found += [task["id"] for task in tasks if "id" in task]
    return found
