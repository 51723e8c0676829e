"""The threads of S3 calls."""

from __future__ import annotations

import os
import threading

from prefect_loova.store.calls import DaemonThreads


def test_a_thread_takes_one_call_after_the_other():
    threads = DaemonThreads()
    assert len({threads.submit(threading.get_ident).result(5) for _ in range(20)}) == 1


def test_a_call_that_hangs_holds_up_no_other():
    threads, hangs = DaemonThreads(), threading.Event()
    for _ in range(3):
        threads.submit(hangs.wait)
    assert threads.submit(lambda: "done").result(5) == "done"
    hangs.set()


def test_an_error_of_a_call_is_the_error_of_its_future():
    threads = DaemonThreads()
    assert isinstance(threads.submit(lambda: 1 // 0).exception(5), ZeroDivisionError)
    assert threads.submit(lambda: "goes on").result(5) == "goes on"


def test_a_forked_process_starts_threads_of_its_own():
    threads = DaemonThreads()
    threads.submit(bool).result(5)
    child = os.fork()
    if not child:
        try:
            os._exit(threads.submit(lambda: 7).result(5))
        finally:
            os._exit(1)  # a child never goes on with the tests
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
