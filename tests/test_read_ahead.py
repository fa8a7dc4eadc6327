"""Results made by threads ahead of their use: order, overlap, errors, stopping."""

import threading

import pytest

from simulsa_plugin.read_ahead import map_ahead

SECONDS = 30  # until a test gives up


def test_results_come_in_order_whichever_thread_is_first():
    later = threading.Event()

    def slow_first(number):
        assert later.wait(SECONDS) if number == 0 else later.set() is None
        return number

    assert list(map_ahead(slow_first, range(5), threads=2)) == [0, 1, 2, 3, 4]


def test_the_next_result_is_made_while_one_is_in_use():
    made = [threading.Event() for _ in range(3)]
    for number in map_ahead(lambda number: made[number].set() or number, range(3)):
        assert number == 2 or made[number + 1].wait(SECONDS)


def test_no_more_results_are_made_than_asked_for():
    made = []
    results = map_ahead(lambda number: made.append(number) or number, range(100), threads=2, ahead=3)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    assert len(made) <= 2 + 3


def test_items_are_taken_on_the_thread_that_asks():
    threads = set()
    items = (threads.add(threading.get_ident()) or number for number in range(4))
    workers = set(map_ahead(lambda _: threading.get_ident(), items, threads=2))
    assert threads == {threading.get_ident()}
    assert threading.get_ident() not in workers


def test_an_error_is_raised_where_its_item_is_due_and_the_threads_end():
    found = []
    with pytest.raises(ZeroDivisionError):
        for result in map_ahead(lambda number: 6 // number, [3, 2, 0, 1], threads=2):
            found.append(result)
    assert found == [2, 3]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
