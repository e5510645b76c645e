"""The heap of deadlines: order, calling off, and what stays behind."""

from __future__ import annotations

import random

import pytest

from gearmand.deadlines import Deadlines


def test_empty_has_nothing_due():
    deadlines = Deadlines()
    assert (len(deadlines), deadlines.next_due(), list(deadlines.pop_due(1e9)), deadlines.items()) == (0, None, [], [])


def test_pop_due_yields_in_order_of_time():
    deadlines = Deadlines()
    for due in (3, 1, 2):
        deadlines.add(due, "at %d" % due)
    assert list(deadlines.pop_due(3)) == ["at 1", "at 2", "at 3"]


def test_pop_due_of_equal_times_yields_in_order_of_addition():
    deadlines = Deadlines()
    for item in "edcba":
        deadlines.add(1, item)
    assert list(deadlines.pop_due(1)) == list("edcba")


def test_pop_due_of_items_that_cannot_be_compared_works():
    deadlines = Deadlines()
    items = [object(), object()]
    for item in items:
        deadlines.add(1, item)
    assert list(deadlines.pop_due(1)) == items


@pytest.mark.parametrize("now, found", [(0.9, []), (1, ["a"]), (1.5, ["a"]), (2, ["a", "b"])])
def test_pop_due_leaves_what_is_not_due(now, found):
    deadlines = Deadlines()
    deadlines.add(1, "a")
    deadlines.add(2, "b")
    assert list(deadlines.pop_due(now)) == found
    assert len(deadlines) == 2 - len(found)


def test_called_off_item_does_not_come_up():
    deadlines = Deadlines()
    entry = deadlines.add(1, "a")
    deadlines.add(1, "b")
    deadlines.call_off(entry)
    assert list(deadlines.pop_due(1)) == ["b"]
    assert len(deadlines) == 0


def test_called_off_item_no_longer_counts():
    deadlines = Deadlines()
    deadlines.call_off(deadlines.add(1, "a"))
    assert (len(deadlines), deadlines.items()) == (0, [])


def test_next_due_is_the_first_time():
    deadlines = Deadlines()
    deadlines.add(5, "a")
    deadlines.add(3, "b")
    assert deadlines.next_due() == 3


def test_pop_due_yields_what_is_added_meanwhile_and_due():
    deadlines = Deadlines()
    deadlines.add(1, "a")
    found = []
    for item in deadlines.pop_due(2):
        found.append(item)
        if item == "a":
            deadlines.add(2, "b")
            deadlines.add(3, "c")
    assert found == ["a", "b"]


def test_pop_due_skips_what_is_called_off_meanwhile():
    deadlines = Deadlines()
    deadlines.add(1, "a")
    entry = deadlines.add(2, "b")
    deadlines.add(2, "c")
    found = []
    for item in deadlines.pop_due(2):
        found.append(item)
        if item == "a":
            deadlines.call_off(entry)
    assert found == ["a", "c"]


def test_pop_due_goes_on_after_a_rebuild_meanwhile():
    deadlines = Deadlines()
    deadlines.add(1, "first")
    entries = [deadlines.add(2, number) for number in range(200)]
    deadlines.add(2, "last")
    found = []
    for item in deadlines.pop_due(2):
        found.append(item)
        if item == "first":
            for entry in entries:
                deadlines.call_off(entry)
    assert found == ["first", "last"]


def test_many_called_off_are_forgotten_before_they_come_up():
    deadlines = Deadlines()
    deadlines.add(1e9, "stays")
    for number in range(10_000):
        deadlines.call_off(deadlines.add(1e6 + number, number))
    assert len(deadlines._heap) < 200
    assert deadlines.items() == ["stays"]


@pytest.mark.parametrize("seed", range(5))
def test_random_use_agrees_with_a_list(seed):
    chance = random.Random(seed)
    deadlines, plain, now = Deadlines(), [], 0
    for number in range(3000):
        move = chance.random()
        if move < 0.5:
            due = now + chance.randrange(50)
            plain.append((due, number, deadlines.add(due, number)))
        elif move < 0.85 and plain:
            entry = plain.pop(chance.randrange(len(plain)))[2]
            deadlines.call_off(entry)
        else:
            now += chance.randrange(5)
            due = sorted(each for each in plain if each[0] <= now)
            plain = [each for each in plain if each[0] > now]
            assert list(deadlines.pop_due(now)) == [item for _, item, _ in due]
        assert len(deadlines) == len(plain)
        assert sorted(deadlines.items()) == sorted(item for _, item, _ in plain)
        if plain:
            assert deadlines.next_due() <= min(plain)[0]
