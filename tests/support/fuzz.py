"""Random requests to a real service: `scripts/fuzz` makes many, the test suite some.

    python -m tests.support.fuzz [api] [sockets] [--cases N] [--at-once N] [--seconds N] [--seed SEED]

`api` makes requests from the service's own description, `sockets` sends bytes that hurt. Both print a line of figures, and what
they have found; the exit code is 1 if that is anything. The database is that of TEST_DATABASE.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import environment, fuzz_api, fuzz_sockets
from tests.support.installations import new_installation
from tests.support.processes import free_port, processes_of, service

TOKEN = "fuzz-" + "0123456789abcdef" * 2


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running service."""

    port: int
    env: dict[str, str]
    output: Path

    def webs(self) -> set[int]:
        """The process ids of its web processes."""
        return {found.pid for found in processes_of(self.env) if "notifier_project.service.web" in found.cmdline()}

    def troubles(self, webs: set[int]) -> list[str]:
        """What the service itself complains of, and whether one of these web processes is gone."""
        said = self.output.read_text(errors="replace")
        found = ["a web process is gone"] if webs - self.webs() else []
        if (place := said.find("Traceback")) >= 0:
            found.append(said[max(place - 500, 0) : place + 3000])
        return found


@contextmanager
def target(folder: Path, *, tokens: bool) -> Iterator[Target]:
    """A service of its own in this folder; it wants a token if there are `tokens`."""
    with new_installation(folder) as env:
        if tokens:
            file = folder / "tokens"
            file.touch(mode=0o600)
            file.write_text(f"fuzz {TOKEN} write,read,manage\n")
            env |= {"NOTIFIER_TOKENS_FILE": str(file)}
        port, output = free_port(), folder / "output"
        with service(env=env, port=port, output=output):
            yield Target(port=port, env=env, output=output)


def fuzz_api_in(folder: Path, *, cases: int, at_once: int, start: int) -> tuple[str, list[str]]:
    """Fuzz a service's API; return the figures and what was found."""
    with target(folder, tokens=True) as found:
        webs = found.webs()
        url = f"http://127.0.0.1:{found.port}"
        result = fuzz_api.fuzz(url, TOKEN, cases=cases, at_once=at_once, start=start)
        figures = f"{result.cases} requests, {at_once} at once, answers: {json.dumps(result.statuses())}"
        return figures, [*result.findings.values(), *found.troubles(webs)]


def fuzz_sockets_in(folder: Path, *, seconds: float, at_once: int, start: int) -> tuple[str, list[str]]:
    """Fuzz a service's sockets; return the figures and what was found."""
    with target(folder, tokens=False) as found:
        webs = found.webs()
        seen = fuzz_sockets.fuzz(found.port, seconds=seconds, at_once=at_once, start=start)
        waits = sorted(seen.waits)
        figures = (
            f"{seen.attacks.total()} attacks {json.dumps(dict(sorted(seen.attacks.items())))}, "
            f"answers: {json.dumps(dict(sorted(seen.statuses.items())))}; "
            f"{len(waits)} well-behaved requests, p50 {waits[len(waits) // 2]:.3f} s, the slowest {waits[-1]:.3f} s"
        )
        return figures, seen.findings + found.troubles(webs)


def main() -> None:
    """Fuzz as the arguments say."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="api, sockets (both)")
    parser.add_argument("--cases", type=int, default=10_000, help="requests from the description (10000)")
    parser.add_argument("--at-once", type=int, default=50, help="clients at a time (50)")
    parser.add_argument("--seconds", type=float, default=120, help="how long the sockets are attacked (120)")
    parser.add_argument("--seed", type=int, default=None, help="a random one unless given")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {"api", "sockets"}:
        parser.error(f"there is no part {unknown.pop()!r}; there are api and sockets")
    start = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    at_once, has_failed = arguments.at_once, False
    for part in arguments.parts or ["api", "sockets"]:
        with tempfile.TemporaryDirectory(prefix="notifier-fuzz-") as name:
            if part == "api":
                figures, findings = fuzz_api_in(Path(name), cases=arguments.cases, at_once=at_once, start=start)
            else:
                figures, findings = fuzz_sockets_in(Path(name), seconds=arguments.seconds, at_once=at_once, start=start)
        sys.stdout.write(f"{part} on {environment.DATABASE}, seed {start}: {figures}; {len(findings)} findings\n")
        sys.stdout.writelines(f"{finding}\n\n" for finding in findings[:20])
        sys.stdout.flush()
        has_failed = has_failed or bool(findings)
    sys.exit(1 if has_failed else 0)


if __name__ == "__main__":
    main()
