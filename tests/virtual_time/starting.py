"""Threads that tests start."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable


def start(*functions: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def after(seconds: float, *calls: Callable[[], object]) -> Callable[[], None]:
    """Sleeps, then calls them."""

    def sleep_and_call() -> None:
        time.sleep(seconds)
        for call in calls:
            call()

    return sleep_and_call
