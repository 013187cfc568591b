"""Every deliberate mistake is noticed: the simulator has teeth."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from .broken_variants import VARIANTS, WITHIN, broken, keeps_all, promise_broken
from .checker import Violation
from .scenario import Scenario
from .simulation import simulate

# A schedule that catches each variant, found by `python -m tests.simulation.broken_variants`.
CAUGHT_AT = {
    "documents_recipe": 0,
    "handing_the_targets_404_to_the_caller": 5,
    "resolving_filters_on_one_side": 1890,
    "acknowledging_what_the_target_lacks": 25,
    "not_journalling_deletes": 730,
    "never_flushing": 24,
    "dropping_ids_of_unknown_fate": 529,
    "a_lease_that_never_expires": 444,
    "a_lease_on_the_wall_clock": 444,
    "not_waiting_for_acknowledgements": 26,
    "never_suspecting": 2577,
    "settling_during_the_copy": 345,
    "saving_progress_before_applying": 1483,
    "taking_a_lost_worker_for_done": 7319,
    "settling_newer_touches": 1186,
    "a_check_that_overlooks_resurrected_points": 178,
    "a_check_that_skips_payloads": 53,
    "a_check_that_skips_vectors": 71,
    "reading_the_target_before_it_is_verified": 7,
    "recovering_through_a_fence_that_stays": 161,
    "a_snapshot_without_a_journal": 193,
    "finishing_without_a_clean_cycle": 178,
    "repairing_after_the_finish": 3,
    "truth_and_writes_moving_at_once": 1345,
}

RARE = {"taking_a_lost_worker_for_done"}


@pytest.mark.parametrize("name", CAUGHT_AT)
def test_a_broken_variant_is_caught(name: str) -> None:
    """A deliberate mistake breaks a promise, in a schedule in which the flows that ship break none."""
    scenario = Scenario.of(CAUGHT_AT[name])
    search = f"search anew with `python -m tests.simulation.broken_variants --within {WITHIN} --only {name}`."
    assert keeps_all(simulate(scenario)), f"What ships breaks a promise in schedule {scenario.seed}."
    with broken(name):
        promise = promise_broken(simulate(scenario))
    assert promise, f"Schedule {scenario.seed} does not catch `{name}` any more; {search}"


def test_every_variant_has_its_schedule() -> None:
    """No variant goes untried, and each but one is caught soon: that needs several rare things at once."""
    assert set(CAUGHT_AT) == set(VARIANTS)
    assert max(at for name, at in CAUGHT_AT.items() if name not in RARE) < WITHIN


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_leaves_nothing_behind(name: str) -> None:
    """A variant is in place while it is asked for, and what ships is there again afterwards."""
    found = VARIANTS[name]
    shipped = inspect.getattr_static(found.owner, found.name)
    with broken(name):
        assert inspect.getattr_static(found.owner, found.name) is found.replacement
    assert inspect.getattr_static(found.owner, found.name) is shipped


def test_a_variant_that_does_not_fit_is_not_taken_for_caught() -> None:
    """An error that the variant itself runs into is no broken promise."""
    result = simulate(Scenario.of(0))
    misfit = Violation(
        "1: no call fails because of the migration", None, 1.0, "app-1: TypeError: one argument too many"
    )
    with pytest.raises(TypeError, match="adapt it to what ships"):
        promise_broken(replace(result, violations=[misfit]))


def test_a_command_without_an_end_is_not_taken_for_a_broken_promise() -> None:
    """A variant that only makes the operator wait has not been caught."""
    waiting = Violation("every command comes to its end", None, 1.0, "goals left")
    assert not promise_broken(replace(simulate(Scenario.of(0)), violations=[waiting]))
