"""`async_iter`, for nothing too (https://django-q2.readthedocs.io/en/master/iterable.html)."""

from collections.abc import Callable, Collection
from typing import Any

from django.utils import timezone
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.humanhash import uuid
from django_q.utils import get_func_repr

from durable_queue.task.originals import original
from durable_queue.waiting.database import history
from durable_queue.work import cached_results


def async_iter(func: str | Callable[..., Any], args_iter: Collection[Any], **kwargs: Any) -> str:
    """Queue a function for each of the arguments; return the id by which `result` gives the list of their results.

    For no arguments there is nothing to queue: the list, an empty one, is there at once.
    """
    if len(args_iter):
        return str(original("async_iter")(func, args_iter, **kwargs))
    return _keep_empty(func, kwargs.get("q_options", kwargs))


def _keep_empty(func: str | Callable[..., Any], options: dict[str, Any]) -> str:
    name, task_id = uuid()
    now = timezone.now()
    task = {
        "id": task_id,
        "name": options.get("task_name") or name,
        "func": str(get_func_repr(func)),
        "args": (),
        "kwargs": {},
        "cluster": options.get("cluster") or Conf.CLUSTER_NAME,
        "started": now,
        "stopped": now,
        "result": [],
        "success": True,
    }
    if options.get("cached"):
        broker = options.get("broker") or get_broker(options.get("cluster"))
        whole = {**task, "path": task["func"], "cached": options["cached"]}
        cached_results.keep(whole, cache=broker.cache, queue=broker.list_key)
    else:
        history().create(**task)
    return str(task_id)
