"""Several threads that do something at the same moment, each with a database connection of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connections


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Call the functions at the same moment, once each has a connection; return what they returned. Raises what they raise."""
    start = threading.Barrier(len(functions))

    def call(function: Callable[[], Any]) -> Any:
        try:
            connections["default"].ensure_connection()
            start.wait(20)
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as threads:
        return [future.result(30) for future in [threads.submit(call, function) for function in functions]]
