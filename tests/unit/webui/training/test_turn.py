"""Whose turn it is: a worker in the WebUI's queue, whose lock lets whoever comes just then go before those it woke."""

import threading

import pytest
from fifo_lock import FIFOLock
from waiting import Waiting, until

from lib_persres.webui.training.turn import TRIES, Turn


@pytest.fixture
def lock():
    return FIFOLock()


def test_all_who_wait_go_first_and_those_who_come_later_after_one_more_step(lock):
    waiting = Waiting(lock)
    with Turn(lock) as turn:
        assert not turn.wanted()
        for name in "abc":
            waiting.add(name, lambda: waiting.add("late") if waiting.done == ["a"] else None)
        assert turn.wanted()
        assert turn.give_way() and turn.held
        assert waiting.done == ["a", "b", "c"] and turn.wanted()  # the late one
        assert turn.give_way()
        assert waiting.done[3:] == ["late"] and not turn.wanted()
    waiting.join()
    assert not lock._lock.locked()


def test_a_thread_that_the_lock_woke_and_did_not_let_in_is_seen_by_its_task(lock):
    tasks = {"image": 0}
    taken = []
    with Turn(lock, lambda: tasks) as turn:
        # as after a newcomer went before it: it waits for the inner lock, and no list has it
        def woken():
            lock._lock.acquire()
            taken.append(tasks.pop("image"))
            lock.release()

        thread = threading.Thread(target=woken)
        thread.start()
        assert not lock._pending_threads and turn.wanted()
        turn.give_way()
        assert taken == [0] and not turn.wanted()
        thread.join(60)


def test_a_task_that_broke_off_and_is_still_listed_is_given_way_to_a_few_times_alone(lock):
    with Turn(lock, lambda: {"broken": 0}) as turn:
        count = 0
        while turn.wanted():
            turn.give_way()
            count += 1
        assert count == TRIES


def test_who_leaves_while_others_are_at_work_blocks_nobody(lock):
    waiting, leave, told = Waiting(lock), threading.Event(), []
    with Turn(lock) as turn:
        waiting.add("image", lambda: (leave.set(), until(lambda: told)))
        waiting.add("next")
        assert not turn.give_way(leave.is_set, lambda: leave.is_set() and not turn.held and told.append(1))
        assert not turn.held and not turn.wanted()
    waiting.join()
    assert waiting.done == ["image", "next"] and lock.acquire(False)


def test_with_the_setting_off_or_another_lock_nobody_is_wanted(lock):
    waiting = Waiting(lock)
    with Turn(lock, gives_way=lambda: False) as turn:
        waiting.add("a")
        assert not turn.wanted()
    waiting.join()
    with Turn(threading.Lock(), lambda: {"a": 0}) as turn:
        assert not turn.wanted()
