"""A driver's sample buffer: which samples are handed on, and when they were taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.sensors._driver import SampleBuffer

BOOT = 1000.0  # seconds that the machine slept before
WALL = 1.8e9


class Host:
    """A clock and a driver that takes a sample each 20 ms into a buffer of some places."""

    def __init__(self, places=100, offset=WALL, spacing=0.020):
        self.now, self.wall, self.offset = 50.0, WALL, offset
        self.places, self.spacing = places, spacing
        self.taken: list[tuple[int, float]] = []
        self.asked: list[int] = []

    def run(self, seconds):
        end = self.now + seconds
        while self.now + self.spacing <= end + 1e-9:
            self.now += self.spacing
            self.taken.append((round((self.now + self.offset) * 1e6), self.now))
        self.taken = self.taken[-self.places :]

    def fetch(self, since):
        self.asked.append(since)
        return [one for one in reversed(self.taken) if one[0] > since]

    def clocks(self):
        return [self.now, self.now + self.wall, self.now + BOOT]

    def buffer(self):
        return SampleBuffer(self.fetch, self.clocks)


def on_time(samples):
    """Each sample's value is the moment when it was taken."""
    return all(at == pytest.approx(value, abs=1e-5) for at, value in samples)


@pytest.mark.parametrize("offset", [WALL, BOOT, 0.0])
def test_stamps_of_any_clock_become_monotonic_seconds(offset):
    host = Host(offset=offset)
    host.run(1.0)
    samples = host.buffer().new()
    assert len(samples) == 50
    assert on_time(samples)


@given(st.lists(st.floats(0.02, 1.9), min_size=1, max_size=12))
def test_no_sample_is_lost_or_told_twice(pauses):
    host = Host()
    buffer, told = host.buffer(), []
    for pause in pauses:
        host.run(pause)
        told += buffer.new()
        assert buffer.new() == []
    assert [value for _, value in told] == sorted(value for _, value in told)
    assert told[-1][0] - told[0][0] == pytest.approx(0.02 * (len(told) - 1), abs=1e-4)


def test_the_depth_is_learned_and_then_only_new_samples_are_asked_for():
    host = Host(places=150)
    buffer = host.buffer()
    host.run(0.5)
    buffer.new()
    assert buffer.depth_seconds == pytest.approx(0.48)
    for _ in range(5):
        host.run(1.0)
        buffer.new()
    assert buffer.depth_seconds == pytest.approx(2.48)  # seen at 2.5 s; deep enough, so no longer learned
    assert host.asked[-1] > 0


@pytest.mark.parametrize("step", [-3600.0, -5.0, -0.2, 0.2, 5.0, 3600.0])
def test_a_wall_clock_that_is_set_moves_no_sample(step):
    host = Host()
    buffer = host.buffer()
    host.run(3.0)
    buffer.new()
    host.run(0.5)
    host.wall = host.offset = WALL + step
    host.run(0.5)
    assert buffer.new() == []  # stamps of both sorts: none is believed
    told = []
    for _ in range(4):
        host.run(0.5)
        told += buffer.new()
    assert on_time(told)
    assert len(told) == 100


def test_zero_repeated_and_future_stamps_are_left_out():
    host = Host()
    host.run(0.2)
    good = list(host.taken)
    host.taken = [*good, good[3], (0, 99.0), (0, 0.0), (good[-1][0] + 60_000_000, 7.0)]
    samples = host.buffer().new()
    assert len(samples) == len(good)
    assert on_time(samples)


def test_what_the_gauge_told_meanwhile_is_not_told_again():
    host = Host()
    buffer = host.buffer()
    host.run(1.0)
    buffer.pass_over(host.now - 0.5)
    assert len(buffer.new()) == 25


def test_it_carries_energy_only_while_it_is_fine_and_fresh():
    host = Host()
    buffer = host.buffer()
    assert not buffer.carries
    host.run(1.0)
    buffer.new()
    assert buffer.carries
    host.now += 6
    assert not buffer.carries
    coarse = Host(spacing=1.0)
    coarse.run(10)
    slow = coarse.buffer()
    slow.new()
    assert not slow.carries
