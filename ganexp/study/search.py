"""Searches by Optuna: it is asked for settings and told their results. Its database is a file beside the study.

The trial with number N has the setting with number N of the study; its runs are that setting with every seed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ganexp.cli.messages import ConfigError
from ganexp.runs import objective_of
from ganexp.study import plan
from ganexp.study.axes import rounded, to_text
from ganexp.study.plan import Job, Plan

FILE, NAME = "optuna.db", "study"
STARTUP = 5  # trials that are finished before one is pruned
WAIT = 120  # seconds for another process that writes the database
PRUNED = "pruned"  # user attribute of a trial


def check_installed() -> None:
    if find_spec("optuna") is None:
        raise ConfigError('study.search: optuna needs Optuna: pip install "ganexp[search]"')


def check(folder: Path, study: Plan) -> None:
    """Raises ConfigError if the database of a study is missing, damaged or behind the study's file. Writes nothing."""
    file = folder / FILE
    advice = "put back a copy of it, or start the study in another folder; its runs are not affected"
    if not file.is_file():
        if study.settings:
            raise ConfigError(f"hydra.run.dir: {file}, the database of this study, is missing; {advice}")
        return
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=WAIT)) as database:
            (found,) = database.execute("PRAGMA integrity_check").fetchone()
            (trials,) = database.execute("SELECT count(*) FROM trials").fetchone()
    except sqlite3.Error as error:
        found, trials = str(error), 0
    if found != "ok" or trials < len(study.settings):
        reason = found if found != "ok" else f"it has {trials} trials, the study {len(study.settings)}"
        raise ConfigError(f"hydra.run.dir: {file} is damaged: {' '.join(reason.split())}; {advice}")


class Database:
    """The Optuna study of a folder, made at the first time."""

    def __init__(self, folder: Path, study: Plan):
        import optuna

        search, pruners = study.search, optuna.pruners
        self.storage = storage_of((folder / FILE).resolve())
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=NAME,
            load_if_exists=True,
            direction="maximize" if search["higher_is_better"] else "minimize",
            sampler=make_sampler(search["sampler"], search["seed"], len(study.settings)),
            pruner=pruners.NopPruner() if search["prune_from"] is None else pruners.MedianPruner(STARTUP, search["prune_from"]),
        )

    def trial(self, number: int) -> Any:
        from optuna.trial import Trial

        study = self.storage.get_study_id_from_name(NAME)
        return Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study, number))


@cache
def storage_of(file: Path) -> Any:
    """Returns Optuna's access to a database, which takes longer to make than to use."""
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = sqlalchemy.URL.create("sqlite", database=str(file))
    return optuna.storages.RDBStorage(str(url), engine_kwargs={"connect_args": {"timeout": WAIT}})


@contextmanager
def opened(folder: Path, study: Plan) -> Iterator[Database]:
    """Yields the database of a study. Raises ConfigError if it fails."""
    import optuna
    import sqlalchemy

    try:
        database = Database(folder, study)
        try:
            yield database
        finally:
            database.storage.remove_session()
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ConfigError(f"hydra.run.dir: {folder / FILE} failed: {' '.join(str(error).split())}") from error


def make_sampler(name: str, seed: int, trial: int) -> Any:
    """Returns the sampler of a trial. Each has a seed of its own, so that a search continues as if it had never stopped."""
    from optuna import samplers

    seed = int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])
    return samplers.RandomSampler(seed=seed) if name == "random" else samplers.TPESampler(seed=seed)


def extend(folder: Path) -> bool:
    """Tell Optuna the results of the runs, and ask it for one more setting. Returns whether there was one to ask for. Raises
    ConfigError if the database fails."""
    with plan.locked(folder):
        study = plan.read(folder)
        assert study is not None
        with opened(folder, study) as database:
            tell(database, study, folder)
            if len(study.settings) >= study.size:
                return False
            study.settings.append(ask(database, study))
        study.write(folder)
    return True


def ask(database: Database, study: Plan) -> dict[str, str]:
    number = len(study.settings)
    # A process that was killed may have asked for this trial and not have written its setting.
    asked = len(database.study.get_trials(deepcopy=False)) > number
    trial = database.trial(number) if asked else database.study.ask()
    setting = {axis: trial.suggest_categorical(axis, list(labels)) for axis, labels in study.axes.items()}
    return setting | {axis: suggest(trial, axis, **ends) for axis, ends in study.search["ranges"].items()}


def suggest(trial: Any, axis: str, low: float, high: float, log: bool) -> str:
    """Returns the label of a value of a range."""
    if isinstance(low, int) and isinstance(high, int):
        return to_text(trial.suggest_int(axis, low, high, log=log))
    return to_text(rounded(trial.suggest_float(axis, low, high, log=log), low, high))


def tell(database: Database, study: Plan, folder: Path) -> None:
    """Tell Optuna every trial whose runs are over: the mean of their last values. A trial with a run that failed or was stopped
    counts as pruned, so that the sampler avoids its surroundings; one without values as failed."""
    from optuna.trial import TrialState

    for trial in database.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        records = [job.record(folder) for job in study.jobs_of(trial.number)]
        if not records or any(record.get("status") not in plan.OVER for record in records):
            continue
        values = [value for record in records if (value := objective_of(record)) is not None]
        if any(record["status"] != "finished" for record in records):
            database.study.tell(trial.number, state=TrialState.PRUNED)
        elif len(values) < len(records):
            database.study.tell(trial.number, state=TrialState.FAIL)
        else:
            database.study.tell(trial.number, float(np.mean(values)))


def is_pruned(folder: Path, study: Plan, job: Job) -> bool:
    """Whether a run of the job's trial was stopped."""
    with opened(folder, study) as database:
        return PRUNED in database.trial(job.number // len(study.seeds)).user_attrs


def report(folder: Path, job: Job, step: int, value: float) -> bool:
    """Tell Optuna the metric of a run at a step. Returns whether to stop the run: the trial's best value, with any seed, is worse
    than the median of the other trials at this step. The steps of a further seed follow those of the one before."""
    study = plan.read(folder)
    assert study is not None
    trial_number, seed = divmod(job.number, len(study.seeds))
    with opened(folder, study) as database:
        trial = database.trial(trial_number)
        if database.study.get_trials(deepcopy=False)[trial_number].state.is_finished():  # a job that is run once more
            return False
        trial.report(value, seed * study.search["max_steps"] + step)
        if step >= study.search["max_steps"]:
            return False
        if PRUNED not in trial.user_attrs and trial.should_prune():
            trial.set_user_attr(PRUNED, {"seed": job.seed, "step": step})
        return PRUNED in trial.user_attrs
