"""What is remembered of a party."""

from __future__ import annotations

import pytest

from gearmand.parties import REMEMBERED_HANDLES, Party


def handle(number: int) -> bytes:
    return b"H:%d" % number


def test_party_remembers_a_handle():
    party = Party()
    party.remember(handle(1))
    assert party.held(handle(1))
    assert not party.held(handle(2))


def test_two_parties_remember_their_own_handles():
    one, other = Party(), Party()
    one.remember(handle(1))
    assert not other.held(handle(1))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_party_remembers_the_last_handles_and_no_others(rounds):
    party = Party()
    count = rounds * REMEMBERED_HANDLES + 10
    for number in range(count):
        party.remember(handle(number))
    known = [number for number in range(count) if party.held(handle(number))]
    assert known == list(range(count - REMEMBERED_HANDLES, count))


def test_party_wants_no_exceptions_unless_asked():
    assert not Party().exceptions
    assert Party(exceptions=True).exceptions


def test_party_is_awake_at_first():
    assert not Party().asleep


def test_party_of_no_kind_cannot_be_posted_to():
    with pytest.raises(NotImplementedError):
        Party().post(6, b"")
