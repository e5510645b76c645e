"""What is remembered of a party."""

from __future__ import annotations

import pytest

from gearmand.parties import REMEMBERED_HANDLES, Party, Past


def handle(number: int) -> bytes:
    return b"H:%d" % number


def test_past_remembers_a_handle():
    past = Past()
    past.add(handle(1))
    assert handle(1) in past
    assert handle(2) not in past


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_past_remembers_the_last_handles_and_no_others(rounds):
    past = Past()
    count = rounds * REMEMBERED_HANDLES + 10
    for number in range(count):
        past.add(handle(number))
    known = [number for number in range(count) if handle(number) in past]
    assert known == list(range(count - REMEMBERED_HANDLES, count))


def test_party_wants_no_exceptions_unless_asked():
    assert not Party().exceptions
    assert Party(exceptions=True).exceptions


def test_party_is_awake_at_first():
    assert not Party().asleep


def test_party_of_no_kind_cannot_be_posted_to():
    with pytest.raises(NotImplementedError):
        Party().post(6, b"")
