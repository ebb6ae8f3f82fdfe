"""Call what cannot be interrupted, and wait for it only so long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def within(
    seconds: float,
    function: Callable[Parameters, Result],
    *arguments: Parameters.args,
    **options: Parameters.kwargs,
) -> Result:
    """Return a call's result, or raise what it raises, or TimeoutError after `seconds`.

    The call goes on in a thread of its own, which does not keep the process alive.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function(*arguments, **options))
        except Exception as err:  # noqa: BLE001  # raised where the result is wanted
            future.set_exception(err)

    threading.Thread(target=work, daemon=True, name="gifdex-deadline").start()
    return future.result(timeout=min(seconds, threading.TIMEOUT_MAX))
