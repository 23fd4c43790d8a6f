"""When a trainer that was asked to stop is ended by force."""

from k2.launch.heed import UNHEEDING_SECONDS, Heed


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_that_goes_on_training_is_ended() -> None:
    clock = Clock()
    heed = Heed(clock)
    assert not heed.is_refused(True, 5)
    clock.now += UNHEEDING_SECONDS + 1
    assert not heed.is_refused(True, 3)
    assert heed.is_refused(True, 1)


def test_one_that_is_silent_may_be_saving_for_long() -> None:
    clock = Clock()
    heed = Heed(clock)
    heed.is_refused(True, 1)
    clock.now += 10 * UNHEEDING_SECONDS
    assert not heed.is_refused(True, 1)


def test_a_request_that_is_taken_back_counts_no_more() -> None:
    clock = Clock()
    heed = Heed(clock)
    heed.is_refused(True, 1)
    clock.now += UNHEEDING_SECONDS + 1
    assert not heed.is_refused(False, 9)
    assert not heed.is_refused(True, 9)


def test_nobody_asked() -> None:
    assert not any(Heed().is_refused(False, 9) for _ in range(9))
