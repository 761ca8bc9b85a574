"""What one line costs in the log's writer alone, beside a plain write: `.venv/bin/python -m benchmarks.writes`.

Processor time and, where a disk or a lock is waited for, time, in microseconds a line: the best of five rounds, in turn. The
table is in docs/exactly-once.md.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from notifications.log.identity import Identity, mark_of_text
from notifications.log.log_file import LogFile

TEXT = b"message to somebody@example.com\n"
ROUNDS = 5

Measure = Callable[[Path], float]


def per_line(count: int, write: Callable[[int], object], clock: Callable[[], float] = time.process_time) -> float:
    """Microseconds of each of so many lines."""
    started = clock()
    for number in range(count):
        write(number)
    return 1e6 * (clock() - started) / count


def writer(folder: Path, *, durable: bool = False) -> LogFile:
    """A writer with a journal of its own."""
    return LogFile(folder / "log.txt", journal_path=folder / "data" / "journal" / "log", durable=durable)


def identity(number: int) -> Identity:
    """Another write each time."""
    task = (number + 1 << 80 | 0x7 << 76).to_bytes(16, "big")
    return Identity(task, mark_of_text("append", 0, TEXT), (0, 0))


def plain_append(folder: Path) -> float:
    def write(_: int) -> None:
        with (folder / "plain.txt").open("ab", buffering=0) as file:
            file.write(TEXT)

    return per_line(20_000, write)


def append(folder: Path) -> float:
    log = writer(folder)
    return per_line(20_000, lambda number: log.append(TEXT, identity=identity(number)))


def append_in_threads(folder: Path) -> float:
    """Forty threads, which share a writer."""
    log, each, threads_count = writer(folder), 500, 40
    log.append(b"x" * 600_000, identity=identity(999_999))

    def write(thread: int) -> None:
        for number in range(each):
            log.append(TEXT, identity=identity(thread * each + number))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(threads_count)]
    started = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1e6 * (time.process_time() - started) / (each * threads_count)


def plain_append_and_sync(folder: Path) -> float:
    def write(_: int) -> None:
        with (folder / "plain.txt").open("ab", buffering=0) as file:
            file.write(TEXT)
            os.fsync(file.fileno())

    return per_line(200, write, time.perf_counter)


def append_durably(folder: Path) -> float:
    log = writer(folder, durable=True)
    return per_line(200, lambda number: log.append(TEXT, identity=identity(number)), time.perf_counter)


def plain_replacement(folder: Path) -> float:
    return per_line(500, lambda _: (folder / "plain.txt").write_bytes(TEXT), time.perf_counter)


def replace(folder: Path) -> float:
    log = writer(folder)
    return per_line(500, lambda number: log.replace(TEXT, identity=identity(number)), time.perf_counter)


def replace_durably(folder: Path) -> float:
    log = writer(folder, durable=True)
    return per_line(100, lambda number: log.replace(TEXT, identity=identity(number)), time.perf_counter)


PAIRS: list[tuple[str, Measure, str, Measure]] = [
    ("append, processor time", append, "open, write, close", plain_append),
    ("append from 40 threads, processor time", append_in_threads, "append from one", append),
    ("append, durability `power`", append_durably, "open, write, fsync, close", plain_append_and_sync),
    ("replace", replace, 'open with "w", write, close', plain_replacement),
    ("replace, durability `power`", replace_durably, "replace, durability `process`", replace),
]


def main() -> None:
    """Print the table."""
    print("| a line | µs | against | µs | ratio |\n|---|---|---|---|---|")
    for name, ours, other_name, other in PAIRS:
        best = {ours: float("inf"), other: float("inf")}
        for _ in range(ROUNDS):
            for measure in (ours, other):
                with tempfile.TemporaryDirectory(dir=Path(__file__).parent.parent / "var") as folder:
                    best[measure] = min(best[measure], measure(Path(folder)))
        print(
            f"| {name} | {best[ours]:,.1f} | {other_name} | {best[other]:,.1f} | {best[ours] / best[other]:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
