"""The virtual environment of each peer, with the versions that its requirements.txt names."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable

from benchmarks.contestants import ENVIRONMENTS, PEERS, Contestant

_LIST = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"


def install(contestants: Iterable[Contestant]) -> None:
    """Set up what is missing; quick when nothing is."""
    for folder in sorted({contestant.folder for contestant in contestants}):
        wanted = PEERS / folder / "requirements.txt"
        environment = ENVIRONMENTS / folder
        installed = environment / "installed.txt"
        if not wanted.exists() or (installed.exists() and installed.read_text() == wanted.read_text()):
            continue
        print(f"Installing {environment} ...", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(wanted)], check=True, stderr=subprocess.DEVNULL)
        shutil.copy(wanted, installed)


def versions(contestant: Contestant) -> dict[str, str]:
    """What is installed in its environment."""
    command = [str(contestant.bin / "python"), "-c", _LIST]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))
