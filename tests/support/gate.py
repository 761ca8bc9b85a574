"""A web process with views of the tests' own (tests/support/gate_urls.py), and requests to it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import free_port, manage, web
from tests.support.raw_http import Answer, Request, ask


class Gate:
    """The web process, and what the tests ask it."""

    def __init__(self, port: int, output: Path) -> None:
        self.port, self.output = port, output

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """The answer to a request on a connection of its own. `X_Forwarded_For="…"` is a header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.port, Request(target=target, method=method, headers=named, body=body))

    def told(self, target: str = "/tasks/tell", **headers: str) -> dict[str, Any]:
        """What has reached the view."""
        answer = self.ask("GET", target, b"", **headers)
        assert answer.status == 200, answer
        return dict(json.loads(answer.body))


@contextmanager
def gate(env: Mapping[str, str], folder: Path, *, migrated: bool = True, **settings: str) -> Iterator[Gate]:
    """A web process of the installation with this environment and these settings."""
    port, output = free_port(), folder / "web-output"
    if migrated:
        manage("migrate", "--verbosity=0", env=env)
    own = {"DJANGO_SETTINGS_MODULE": "tests.support.gate_settings", "GATE_FOLDER": str(folder)}
    with web(env={**env, **own, **settings}, port=port, output=output):
        try:
            yield Gate(port, output)
        finally:
            (folder / "go").touch()


def detail(answer: Answer) -> str:
    """The reason that a refusal gives, in FastAPI's shape."""
    assert answer.headers["content-type"] == "application/json"
    said = json.loads(answer.body)
    assert said.keys() == {"detail"}
    return str(said["detail"])
