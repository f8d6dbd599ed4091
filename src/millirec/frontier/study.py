"""`search`: draws variants, makes and measures each as far as is worth it, and names the best."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.frontier.attempt import Attempt, Rival
from millirec.frontier.cache import key_of
from millirec.frontier.config import FrontierConfig, Variant
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.pace import Watcher
from millirec.frontier.pareto import front
from millirec.frontier.search import UPWARDS, Search, Searched, Trial
from millirec.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import optuna

ATTEMPT = "trial"
_KEPT = "told"  # the attribute of a trial of Optuna in which ours is kept
_HOPELESS = 10  # so many refused trials, and no other: the space is at fault


def search(
    config: FrontierConfig,
    teacher: Checkpoint,
    workshop: Workshop,
    watcher: Watcher,
    check: Callable[[Variant], None],
) -> tuple[Searched, tuple[Variant, ...]]:
    """All trials, and the finalists as variants. An earlier search with the same settings is gone on with.

    `check` raises a MillirecError for a variant that cannot be made. Raises ConfigError when no trial can be.
    """
    if config.search is None:
        raise ValueError("nothing is to be searched")
    folder, rival = Path(config.out) / config.name / "cache", Rival(workshop.journal)
    measure = msgspec.structs.replace(config.measure, part="validation", rounds=config.search.rounds)
    laboratory = Laboratory(teacher, replace(workshop, journal=rival), measure, folder, config.pack, config.ranker)
    try:
        decisive = (*_decisive(config, config.search), *laboratory.ranker_key)
        key = key_of(teacher.content_hash, laboratory.dataset.split_fingerprint, decisive, measure)
        study = _study(folder / "studies" / f"{key}.journal", config.search)
        attempt = Attempt(config, config.search, laboratory, rival, check)
        _go_on(study, config.search, attempt, watcher)
    finally:
        laboratory.close()
    trials = list(_told(study))
    best = _best(trials, config.search)
    variants = tuple(attempt.variant(trial) for trial in best)
    return Searched(trials=tuple(trials), finalists=tuple(trial.number for trial in best)), variants


def _decisive(config: FrontierConfig, search: Search) -> tuple[object, ...]:
    """What may not change in a study that is gone on with."""
    lasting = msgspec.structs.replace(search, trials=1, minutes=None, finalists=1)
    return lasting, config.limits, config.gate


def _study(path: Path, search: Search) -> "optuna.Study":
    """The study at `path`, new if there is none. Trials that a kill has left are tried again."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))  # lines of JSON
    study = optuna.create_study(
        storage=storage,
        study_name=path.stem,
        load_if_exists=True,
        directions=["maximize" if name in UPWARDS else "minimize" for name in search.objectives],
        pruner=optuna.pruners.MedianPruner() if search.prunes else optuna.pruners.NopPruner(),
    )
    # A study that goes on must not draw the numbers again that it began with.
    seed = search.seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
        if left.params:
            study.enqueue_trial(left.params)
    return study


def _go_on(study: "optuna.Study", search: Search, attempt: Attempt, watcher: Watcher) -> None:
    from optuna.trial import TrialState

    done = list(_told(study))
    watcher.plan({ATTEMPT: max(search.trials - len(done), 0)})
    until = math.inf if search.minutes is None else time.monotonic() + 60 * search.minutes
    while len(done) < search.trials and time.monotonic() < until:
        trial = study.ask()
        watcher.begin(ATTEMPT, f"{len(done) + 1} of {search.trials}{_best_so_far(done, search)}")
        told, failure = attempt(trial)
        trial.set_constraint("limits", max(told.misses.values(), default=0.0))  # kept: at most 0
        trial.set_user_attr(_KEPT, msgspec.to_builtins(told))
        if told.state == "complete":
            study.tell(trial, [told.figures[name] for name in search.objectives])
        else:
            study.tell(trial, state=TrialState.PRUNED if told.state == "pruned" else TrialState.FAIL)
        done.append(told)
        watcher.end()
        if failure is not None and len(done) >= _HOPELESS and all(one.state == "refused" for one in done):
            raise ConfigError(f"$.search.variant: {len(done)} trials, all refused; {failure.problem}", failure.mend)


def _told(study: "optuna.Study") -> Iterator[Trial]:
    for trial in study.get_trials(deepcopy=False):
        if _KEPT in trial.user_attrs and trial.state.is_finished():
            yield msgspec.convert(trial.user_attrs[_KEPT], Trial)


def _best_so_far(done: list[Trial], search: Search) -> str:
    best = _best(done, search)
    if not best:
        return ""
    figures = ", ".join(f"{name} {best[0].figures[name]:.4g}" for name in search.objectives)
    return f", best {figures}"


def _best(trials: list[Trial], search: Search) -> list[Trial]:
    """The finalists, no two with the same figures: first those on the front of all objectives that keep every limit.

    When none keeps every limit, those that miss them least.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    fitting = [trial for trial in complete if not trial.misses]
    if not fitting:
        order = sorted(complete, key=lambda trial: (max(trial.misses.values()), trial.number))
    else:
        costs = np.array([_costs(trial, search) for trial in fitting])
        on_front = front(costs)
        places = sorted(range(len(fitting)), key=lambda i: (not on_front[i], *costs[i], fitting[i].number))
        order = [fitting[i] for i in places]
    return list({_costs(trial, search): trial for trial in reversed(order)}.values())[::-1][: search.finalists]


def _costs(trial: Trial, search: Search) -> tuple[float, ...]:
    return tuple(-trial.figures[name] if name in UPWARDS else trial.figures[name] for name in search.objectives)
