"""Learning rate schedules against closed forms and the formulas of the original code in numpy."""

import math

import numpy as np
import pytest

from vitkit.training.schedule import Schedule, factor

TOTAL, WARMUP = 200, 20


def curve(**fields: object) -> np.ndarray:
    schedule = Schedule(**fields)  # type: ignore[arg-type]
    return np.array([factor(schedule, step, TOTAL) for step in range(TOTAL + 1)])


def test_cosine_equals_the_original_fine_tuning_code() -> None:
    steps = np.arange(TOTAL + 1)
    progress = np.clip((steps - WARMUP) / (TOTAL - WARMUP), 0.0, 1.0)
    expected = 0.5 * (1.0 + np.cos(np.pi * progress)) * np.minimum(1.0, steps / WARMUP)
    np.testing.assert_allclose(curve(decay="cosine", warmup=WARMUP), expected, atol=1e-15)


def test_cosine_ends_at_the_final_value() -> None:
    steps = np.arange(TOTAL + 1)
    progress = np.clip((steps - WARMUP) / (TOTAL - WARMUP), 0.0, 1.0)
    # DeiT III: from 3e-3 to 1e-5.
    expected = (1e-5 + (3e-3 - 1e-5) * (1 + np.cos(np.pi * progress)) / 2) * np.minimum(1.0, steps / WARMUP)
    np.testing.assert_allclose(3e-3 * curve(decay="cosine", warmup=WARMUP, end=1e-5 / 3e-3), expected, atol=1e-15)


def test_linear_ends_at_the_final_value() -> None:
    steps = np.arange(TOTAL + 1)
    progress = np.clip((steps - WARMUP) / (TOTAL - WARMUP), 0.0, 1.0)
    # The paper's runs: from 1e-3 to 1e-5.
    expected = (1e-5 + (1e-3 - 1e-5) * (1 - progress)) * np.minimum(1.0, steps / WARMUP)
    np.testing.assert_allclose(1e-3 * curve(decay="linear", warmup=WARMUP, end=1e-2), expected, atol=1e-15)


def test_rsqrt_with_cooldown_equals_scaling_vision_transformers() -> None:
    steps = np.arange(TOTAL + 1)
    expected = np.where(steps >= WARMUP, 1 / np.sqrt(1 + (steps - WARMUP) / 30), 1.0)
    expected = expected * np.minimum(1.0, steps / WARMUP) * np.minimum(1.0, (TOTAL - steps) / 50)
    np.testing.assert_allclose(curve(decay="rsqrt", warmup=WARMUP, timescale=30, cooldown=50), expected, atol=1e-15)


def test_constant_and_boundary_values() -> None:
    assert set(curve(decay="constant")) == {1.0}
    assert curve(warmup=WARMUP)[0] == 0.0
    assert curve(warmup=WARMUP)[WARMUP] == 1.0
    assert curve()[0] == 1.0
    assert math.isclose(curve()[-1], 0.0, abs_tol=1e-15)
    assert factor(Schedule(warmup=10), 0, 1) == 0.0


def test_invalid_schedules_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup is 200; it must be below the number of .*, 200"):
        factor(Schedule(warmup=200), 0, 200)
    with pytest.raises(ValueError, match=r"schedule\.warmup is -1; it must be at least 0"):
        Schedule(warmup=-1)
