"""wrk (https://github.com/wg/wrk), the client of the HTTP scenarios."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parent / "post.lua"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a run of wrk saw. Times are in milliseconds."""

    answered: int  # with 200
    refused: int  # with another status, or not at all
    seconds: float
    p50: float
    p99: float
    slowest: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


def post(port: int, *, connections: int, seconds: int, tag: str) -> Answers:
    """Post as fast as the answers come, over connections that are kept. Each line is another; `tag` keeps runs apart."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is needed for this scenario: apt-get install wrk")
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--timeout", "10s"]
    command += ["--script", str(SCRIPT), f"http://127.0.0.1:{port}", "--", tag]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60)
    return Answers(**json.loads(done.stdout.splitlines()[-1]))
