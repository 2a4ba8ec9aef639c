"""What must hold after a fault: nothing done is lost or made again, the next run says what it found, equal results."""

import re
from dataclasses import dataclass, field

from tests.torture.faults import FAULTS, Trial
from tests.torture.subjects import Done, Reference
from tests.torture.warm import Launched

MAX_RUNS = 3
"""How often the command is run again until it ends with status 0."""
KILLED = -9


@dataclass
class Outcome:
    """How a trial ended.

    Attributes:
        survived: the run ended with status 0 although the fault was there.
        resumed: a later run said what it found.
        equal: the results are those of an uninterrupted run.
        failures: what did not hold, one line each.
    """

    survived: bool = False
    resumed: bool = False
    equal: bool = False
    failures: list[str] = field(default_factory=list)


def suffer(trial: Trial, fault: str, reference: Reference) -> Outcome:
    """Let a command suffer a fault, run it again until it ends, and check what must hold."""
    outcome, subject = Outcome(), trial.subject
    try:
        FAULTS[fault](trial)
        suffered = trial.launched[-1]
        outcome.survived = suffered.poll() == 0
        # a run may have ended before the fault came, and the run that suffered it is the next
        finished = any(launched.poll() == 0 for launched in trial.launched)
        before = _done(trial)
        later = _run_until_it_ends(trial)
    except TimeoutError as error:
        outcome.failures.append(f"hung: {error}")
        return outcome
    for launched in trial.launched:
        outcome.failures += _unreadable_end(launched)
    outcome.resumed = bool(later) and re.search(subject.found, later[0].text()) is not None
    unfinished = subject.found_when_run_again or not finished
    if (
        (before and unfinished and subject.mentions_done) or subject.must_mention(trial.damaged)
    ) and not outcome.resumed:
        outcome.failures.append(f"said nothing of what it found: {sorted(before)}, damaged {trial.damaged}")
    if later[-1].poll() != 0:
        outcome.failures.append(f"still ends with status {later[-1].poll()} at the {len(later)}. run")
    printed = "".join(launched.text() for launched in trial.launched)
    after = subject.done(trial.out, printed) if unfinished else before
    made_again = [name for name, identity in before.items() if after.get(name) != identity]
    if made_again:
        outcome.failures.append(f"done before, and lost or made again: {', '.join(made_again)}")
    results = subject.results(trial.out)
    outcome.equal = results == reference.results
    if not outcome.equal:
        names = sorted({*results, *reference.results})
        differing = [name for name in names if results.get(name) != reference.results.get(name)]
        outcome.failures.append(f"differs from an uninterrupted run: {', '.join(differing)}")
    return outcome


def _done(trial: Trial) -> Done:
    """What the runs so far have reported as done, without what the fault itself has damaged."""
    printed = "".join(launched.text() for launched in trial.launched)
    done = trial.subject.done(trial.out, printed)
    return {name: identity for name, identity in done.items() if not trial.subject.touched(name, trial.damaged)}


def _run_until_it_ends(trial: Trial) -> list[Launched]:
    runs = [trial.launch()]
    while runs[-1].wait() != 0 and len(runs) < MAX_RUNS:
        runs.append(trial.launch())
    return runs


def _unreadable_end(launched: Launched) -> list[str]:
    """What is wrong with how a run ended: a traceback, a status of a mishap, or an error of no or several lines."""
    status, text = launched.poll(), launched.text()
    where, errors = launched.log.name, re.findall(r"^lmms-steer: .*", text, re.MULTILINE)
    wrong = []
    if "Traceback (most recent call last)" in text:
        wrong.append(f"{where}: a traceback")
    if status not in (0, KILLED, 2):
        wrong.append(f"{where}: status {status}")
    if status == 2 and len(errors) != 1:
        wrong.append(f"{where}: status 2 with {len(errors)} lines of error")
    if status == 0 and errors:
        wrong.append(f"{where}: status 0 with the error {errors[0]!r}")
    return wrong
