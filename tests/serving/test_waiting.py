"""The queue of jobs."""

import time

import pytest

from instantid_jax.serving.job import Job, QueueFullError
from instantid_jax.serving.waiting import Waiting
from tests.serving.asking import ask


def queued(*priorities: int) -> tuple[Waiting, list[Job]]:
    waiting, jobs = Waiting(8), [Job(ask(), priority) for priority in priorities]
    for job in jobs:
        waiting.put(job, 0.0)
    return waiting, jobs


def test_jobs_leave_by_priority_then_by_arrival():
    waiting, jobs = queued(0, 5, 0, 5, -1)
    expected = [jobs[i] for i in (1, 3, 0, 2, 4)]
    assert [waiting.position(job) for job in expected] == [0, 1, 2, 3, 4]
    assert [waiting.take() for _ in range(6)] == [*expected, None]


def test_jobs_that_have_ended_leave_by_themselves():
    waiting, jobs = queued(0, 0, 0)
    jobs[0].cancel()
    assert len(waiting) == 2 and waiting.position(jobs[1]) == 0
    assert waiting.take() is jobs[1] and jobs[2] in waiting and jobs[1] not in waiting


def test_a_full_queue_says_when_to_try_again():
    waiting, jobs = queued(*[0] * 8)
    with pytest.raises(QueueFullError, match="8 requests are waiting already: try again in 3 s"):
        waiting.put(Job(ask()), 2.5)
    jobs[3].cancel()
    waiting.put(Job(ask()), 2.5)
    assert len(waiting) == 8


def test_late_jobs_are_found():
    waiting = Waiting(2)
    late, other = Job(ask(), timeout=0.0), Job(ask())
    waiting.put(late, 0.0)
    waiting.put(other, 0.0)
    time.sleep(0.01)
    assert waiting.late() == [late]
