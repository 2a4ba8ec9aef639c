"""The statistics: equal to independent computations, and with their nominal error rates."""

from math import comb
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm, permutation_test
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar

from lmms_steer.statistics.clustered import cluster_interval, cluster_sums, sign_flip_p
from lmms_steer.statistics.paired import average_effects, mcnemar_exact_p, mcnemar_mid_p, tango_interval, task_effects

REPEATS = 2_000


def test_mcnemar_equals_statsmodels_and_mid_p_counts_the_observed_half() -> None:
    for fixed, broken in ((15, 5), (0, 3), (7, 7), (1, 0), (40, 61)):
        expected = mcnemar([[0, fixed], [broken, 0]], exact=True).pvalue
        assert mcnemar_exact_p(fixed, broken) == pytest.approx(expected)
        # Fagerland et al.: the exact p less the probability of the observed outcome
        mid_p = float(mcnemar_mid_p(fixed, broken))
        assert mid_p == (1.0 if fixed == broken else pytest.approx(expected - _coin(fixed, fixed + broken)))
    assert mcnemar_exact_p(0, 0) == mcnemar_mid_p(0, 0) == 1


def _coin(k: int, n: int) -> float:
    return float(comb(n, k) / 2**n)


def test_score_interval_equals_a_published_one_and_a_numerical_likelihood() -> None:
    # Fagerland, Lydersen and Laake 2014, table of the airway study: -0.517 to -0.026
    assert np.round([*tango_interval(1, 7, 21)], 3).tolist() == [-0.517, -0.026]
    for fixed, broken, n in ((8, 3, 100), (30, 41, 250), (2, 0, 50)):
        low, high = tango_interval(fixed, broken, n)
        limits = [_by_likelihood(fixed, broken, n, sign) for sign in (1, -1)]
        assert [float(low), float(high)] == pytest.approx(limits, abs=1e-4)


def _by_likelihood(fixed: int, broken: int, n: int, sign: int) -> float:
    """Find the limit with the share of broken answers that maximises the likelihood numerically."""

    def beyond(delta: float) -> float:
        def loss(share: float) -> float:
            same = n - fixed - broken
            counts, shares = (fixed, broken, same), (share + delta, share, 1 - 2 * share - delta)
            return -float(sum(count * np.log(max(p, 1e-300)) for count, p in zip(counts, shares, strict=True)))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return float(
            (fixed - broken - n * delta) / np.sqrt(n * (2 * share + delta - delta**2)) - sign * norm.ppf(0.975)
        )

    return float(brentq(beyond, *((-0.9, (fixed - broken) / n) if sign > 0 else ((fixed - broken) / n, 0.9))))


def test_sign_flips_equal_scipy_s_permutation_test() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=(2, 12)), rng.normal(0.4, size=(2, 12))
    for row in range(2):
        exact = permutation_test(
            (after[row], before[row]), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert sign_flip_p((after - before)[row][None])[0] == pytest.approx(exact, abs=0.015)


def test_units_that_are_zero_do_not_count_as_many() -> None:
    rows = np.zeros((1, 20_000))
    rows[0, :4] = 1, 1, 1, 0.5
    assert sign_flip_p(rows)[0] == sign_flip_p(rows[:, :9])[0] == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.slow
def test_many_units_use_the_normal_limit() -> None:
    rows = np.random.default_rng(0).normal(0.012, 1, (1, 12_000))
    assert sign_flip_p(rows)[0] == pytest.approx(sign_flip_p(rows[:, :9_999])[0], abs=0.1)
    assert sign_flip_p(rows)[0] == pytest.approx(2 * norm.sf(abs(rows.sum()) / np.sqrt((rows**2).sum())))


def test_clustered_interval_equals_statsmodels() -> None:
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(40), 3)
    differences = (rng.normal(size=40)[images] + rng.normal(size=120))[None]
    rows = cluster_sums(differences, np.full(120, 1 / 120), images)
    expected = cluster_sums(np.full((1, 120), differences.mean()), np.full(120, 1 / 120), images)
    low, high = cluster_interval(rows, expected, floor=0, squares=np.full(40, 3 / 120**2))
    fitted = OLS(differences[0], np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": images, "df_correction": True}, use_t=True
    )
    assert [low[0], high[0]] == pytest.approx(fitted.conf_int()[0].tolist(), rel=1e-6)


def test_average_over_tasks_weights_tasks_equally() -> None:
    parts = [np.array([[1.0, 0, 0, 0]]), np.array([[0.5, 0.5]])]
    effects = average_effects(parts)
    assert effects.gain[0] == pytest.approx((0.25 + 0.5) / 2)
    assert (effects.fixed[0], effects.broken[0], effects.test) == (3, 0, "sign flips")


def simulated(kind: str, effect: float, rng: np.random.Generator) -> tuple[Any, Any, float]:
    """Draw differences (repeats x questions); also returns clusters and the true gain."""
    if kind.startswith("answers"):
        n, differ = {"answers, few": (100, 0.1), "answers": (500, 0.2)}[kind]
        shares = [differ * (1 - effect) / 2, 1 - differ, differ * (1 + effect) / 2]
        return rng.choice([-1.0, 0, 1], p=shares, size=(REPEATS, n)), None, differ * effect
    if kind == "graded":
        marks = rng.normal(effect, 1, (REPEATS, 200)) * (rng.random((REPEATS, 200)) < 0.3)
        return marks, None, 0.3 * effect
    shares = [0.15 * (1 - effect), 0.7, 0.15 * (1 + effect)]
    images, own = (rng.choice([-1.0, 0, 1], p=shares, size=(REPEATS, 60, k)) for k in (1, 4))
    alike = rng.random((REPEATS, 60, 4)) < 0.6
    return np.where(alike, images, own).reshape(REPEATS, -1), np.arange(240) // 4, 0.3 * effect


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["answers, few", "answers", "graded", "shared images"])
def test_error_rates_are_nominal(kind: str) -> None:
    rng = np.random.default_rng(7)
    for effect in (0.0, 0.3):
        differences, images, gain = simulated(kind, effect, rng)
        effects = task_effects(differences, images)
        covered = float(((effects.low <= gain) & (gain <= effects.high)).mean())
        assert covered == pytest.approx(0.95, abs=0.015), f"effect {effect}"
        if effect == 0:
            assert float((effects.p < 0.05).mean()) == pytest.approx(0.05, abs=0.015)
        else:
            assert float((effects.p < 0.05).mean()) > 0.08


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_one_image_for_all_questions_gives_no_interval_and_no_test(step: float) -> None:
    differences = step * np.array([[1.0] * 20 + [0.0] * 20, [0.0] * 40])
    effects = task_effects(differences, np.zeros(40, dtype=np.int64))
    assert effects.gain == pytest.approx([step / 2, 0.0])
    assert np.isneginf(effects.low).all() and np.isposinf(effects.high).all()
    assert effects.p.tolist() == [1.0, 1.0]
    # beside a task with many images it is one of their number
    group = average_effects([differences, differences], np.arange(80) - np.minimum(np.arange(80), 39))
    assert np.isfinite(group.low).all() and group.p[0] < 1


def test_ignoring_shared_images_raises_the_error_rate() -> None:
    differences, _, _ = simulated("shared images", 0.0, np.random.default_rng(7))
    assert (task_effects(differences).p < 0.05).mean() > 0.12


@pytest.mark.parametrize("kind", ["a few images of many questions", "a small task with shared images in a group"])
def test_intervals_hold_where_a_few_units_have_much_of_the_weight(kind: str) -> None:
    rng = np.random.default_rng(5)
    shares = [0.1, 0.8, 0.1]
    sizes, others, alike = ([100] * 5, 200, 0.0) if kind.startswith("a few") else ([50] * 8, 1000, 0.3)
    images = np.repeat(np.arange(len(sizes)), sizes)
    own, shared = (rng.choice([-1.0, 0, 1], p=shares, size=(REPEATS, n)) for n in (len(images), len(sizes)))
    together = np.where(rng.random(own.shape) < alike, shared[:, images], own)
    alone = rng.choice([-1.0, 0, 1], p=shares, size=(REPEATS, others))
    clusters = np.concatenate((images, len(sizes) + np.arange(others)))
    parts = [np.concatenate((together, alone), 1)] if kind.startswith("a few") else [together, alone]
    effects = average_effects(parts, clusters)
    assert float(((effects.low <= 0) & (effects.high >= 0)).mean()) == pytest.approx(0.95, abs=0.015)


def test_averages_over_tasks_have_nominal_error_rates() -> None:
    rng = np.random.default_rng(5)
    parts = [rng.choice([-1.0, 0, 1], p=[0.08, 0.84, 0.08], size=(REPEATS, n)) for n in (100, 300)]
    effects = average_effects(parts)
    assert float((effects.p < 0.05).mean()) == pytest.approx(0.05, abs=0.015)
    assert float(((effects.low <= 0) & (effects.high >= 0)).mean()) == pytest.approx(0.95, abs=0.015)
