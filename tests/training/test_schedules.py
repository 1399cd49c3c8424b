import pytest

from detpretrain.training.schedules import Averaging, EpochPoly, WarmupPoly


def test_warmup_goes_from_its_start_to_the_full_rate():
    schedule = WarmupPoly(lr=0.01, decay_steps=110, warmup_steps=10, warmup_start=1e-6)
    assert schedule(0, 50) == 1e-6
    assert schedule(5, 50) == pytest.approx((1e-6 + 0.01) / 2)
    assert schedule(9, 50) == pytest.approx(1e-6 + 0.9 * (0.01 - 1e-6))
    assert schedule(10, 50) == 0.01


def test_polynomial_after_the_warmup():
    schedule = WarmupPoly(lr=0.01, decay_steps=110, warmup_steps=10)
    assert schedule(35, 50) == pytest.approx(0.01 * 0.75**0.9)
    assert schedule(60, 50) == pytest.approx(0.01 * 0.5**0.9)
    assert schedule(109, 50) == pytest.approx(0.01 * 0.01**0.9)


def test_polynomial_stays_above_zero_at_and_after_its_end():
    schedule = WarmupPoly(lr=0.01, decay_steps=110, warmup_steps=10)
    assert schedule(110, 50) == schedule(500, 50) == schedule(109, 50) > 0


def test_polynomial_without_warmup_starts_at_the_full_rate():
    assert WarmupPoly(lr=0.5, decay_steps=10)(0, 5) == 0.5


def test_epoch_polynomial_is_constant_within_an_epoch():
    schedule = EpochPoly(lr=0.01, decay_steps=1000 * 250)  # nnssl: 1000 epochs of 250 steps
    for epoch, expected in [(0, 0.01), (1, 0.01 * 0.999**0.9), (500, 0.01 * 0.5**0.9), (999, 0.01 * 0.001**0.9)]:
        rates = {schedule(step, 250) for step in range(epoch * 250, (epoch + 1) * 250)}
        assert len(rates) == 1
        assert rates.pop() == pytest.approx(expected)
    assert schedule(1000 * 250, 250) == schedule(999 * 250, 250)


def test_averaging_rises_linearly_in_every_epoch():
    averaging = Averaging(start_epoch=3, low=1e-5, high=1e-3)
    for epoch in (3, 4):
        rates = [averaging.lr(step, 5) for step in range(epoch * 5, epoch * 5 + 5)]
        assert rates == pytest.approx([1e-5, 2.575e-4, 5.05e-4, 7.525e-4, 1e-3])
    assert averaging.lr(7, 1) == 1e-5  # an epoch of one step
