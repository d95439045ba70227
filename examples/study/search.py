"""Compare ways to search hyperparameters at the same budget of energy: how good a model each finds, for how much.

Grid, random, Bayesian (Optuna's TPE), ASHA and population based training run one after the other on Ray Tune, each
until it has used the same energy. A trial measures itself and keeps a record in its folder; trials that a scheduler
stops and those that population based training continues from another's checkpoint count, each joule once.

Two tasks: ``digits``, a small network on handwritten digits, on the CPU in seconds; and ``summarization``, the
example beside this one, for GPUs.

Usage: ``python search.py --task digits --max_kwh 5e-5 --output search-run``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import greenml

try:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
    from ray.tune.search.optuna import OptunaSearch

    from greenml.integrations.ray import GreenTuneCallback, SweepBudget, summarize, track_trial, trial_folders
except ImportError as error:
    sys.exit(f'this example needs {error.name}: pip install -e ".[demo,ray]" optuna')

EXAMPLES = Path(__file__).resolve().parent.parent
STRATEGIES = ("grid", "random", "tpe", "asha", "pbt")
JOULES_PER_KWH = 3_600_000.0
CHECKPOINT = "state.json"
SMALLEST_WITH_QUARTERS = 4  # of a population


@dataclass(frozen=True)
class Task:
    """What is tuned.

    Attributes:
        train: a trial.
        quality: the metric that it reports; higher is better.
        epochs: of a trial; those of population based training go on as long as the budget lasts.
        space: of every strategy but grid.
        grid: the values of grid.
        mutations: what population based training may change while a trial goes on.
    """

    train: Callable[[dict[str, Any]], None]
    quality: str
    epochs: int
    space: dict[str, Any]
    grid: dict[str, list[Any]]
    mutations: dict[str, Any]


def digits(config: dict[str, Any]) -> None:
    """Train the network of ``examples/digits.py``, one report an epoch."""
    sys.path.insert(0, str(EXAMPLES))
    import numpy as np
    from digits import Network, load_digits, train_test_split
    from threadpoolctl import threadpool_limits

    images, labels = load_digits(return_X_y=True)
    split = train_test_split((images / 16.0).astype(np.float32), labels, test_size=0.25, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    random = np.random.default_rng(config["seed"])
    network, epoch = Network(train_images.shape[1], config["hidden"], 10, random), 0
    with track_trial() as run, threadpool_limits(1):
        run.params({name: value for name, value in config.items() if name != "epochs"})
        if (checkpoint := tune.get_checkpoint()) is not None:
            with checkpoint.as_directory() as folder:
                state = json.loads(Path(folder, CHECKPOINT).read_text())
            epoch = state["epoch"]
            network.parameters = [np.array(values, np.float32) for values in state["parameters"]]
            network.velocities = [np.zeros_like(parameter) for parameter in network.parameters]
        while epoch < config["epochs"]:
            epoch += 1
            with run.phase("train"):
                order = random.permutation(len(train_images))
                for start in range(0, len(order), config["batch"]):
                    chosen = order[start : start + config["batch"]]
                    network.step(train_images[chosen], train_labels[chosen], config["learning_rate"])
            with run.phase("eval"):
                accuracy = network.accuracy(test_images, test_labels)
            run.log(epoch=epoch, accuracy=accuracy)
            state = {"epoch": epoch, "parameters": [parameter.tolist() for parameter in network.parameters]}
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, CHECKPOINT).write_text(json.dumps(state))
                kept = tune.Checkpoint.from_directory(folder)
                tune.report({"accuracy": accuracy, "epoch": epoch}, checkpoint=kept)


def summarization(config: dict[str, Any]) -> None:
    """Fine-tune with ``examples/summarization/finetune.py``, one report an epoch's evaluation."""
    sys.path.insert(0, str(EXAMPLES / "summarization"))
    import finetune
    from transformers import TrainerCallback

    class Report(TrainerCallback):  # type: ignore[misc]
        """Reports each evaluation; where trials go on from others, once its checkpoint is there."""

        metrics: dict[str, float]

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
            self.metrics = {"rougeLsum": metrics["eval_rougeLsum"], "epoch": state.epoch}
            if not config["checkpoints"]:
                tune.report(self.metrics)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            saved = Path(args.output_dir, f"checkpoint-{state.global_step}")
            tune.report(self.metrics, checkpoint=tune.Checkpoint.from_directory(saved))

    folder = Path(tune.get_context().get_storage().trial_fs_path)
    words = {"output_dir": folder / "model", "num_train_epochs": config["epochs"], "eval_strategy": "epoch"}
    words |= {name: config[name] for name in ("learning_rate", "weight_decay", "per_device_train_batch_size", "seed")}
    words |= {"save_strategy": "epoch" if config["checkpoints"] else "no", "save_total_limit": 1}
    given = [text for name, value in words.items() for text in (f"--{name}", str(value))]
    args = finetune.parse([*given, *config["finetune"]])
    green = greenml.GreenCallback(output=folder / "run.json", resume=True)
    finetune.set_seed(args.seed)
    try:
        trainer, _ = finetune.build(args, green)
        trainer.add_callback(Report())
        checkpoint = tune.get_checkpoint()
        if checkpoint is None:
            trainer.train()
        else:
            with checkpoint.as_directory() as saved:
                trainer.train(resume_from_checkpoint=saved)
    finally:
        green.stop()  # the process may serve another trial


TASKS = {
    "digits": Task(
        train=digits,
        quality="accuracy",
        epochs=8,
        space={
            "learning_rate": tune.loguniform(1e-3, 1.0),
            "hidden": tune.choice([16, 64, 256]),
            "batch": tune.choice([16, 64]),
        },
        grid={"learning_rate": [1.0, 0.1, 0.01, 0.001], "hidden": [16, 64, 256], "batch": [16, 64]},
        mutations={"learning_rate": tune.loguniform(1e-3, 1.0), "batch": [16, 64]},
    ),
    "summarization": Task(
        train=summarization,
        quality="rougeLsum",
        epochs=3,
        space={
            "learning_rate": tune.loguniform(1e-5, 3e-4),
            "weight_decay": tune.choice([0.0, 0.01, 0.1]),
            "per_device_train_batch_size": tune.choice([4, 8, 16]),
        },
        grid={
            "learning_rate": [1e-5, 3e-5, 1e-4, 3e-4],
            "weight_decay": [0.0, 0.01, 0.1],
            "per_device_train_batch_size": [4, 8, 16],
        },
        mutations={"learning_rate": tune.loguniform(1e-5, 3e-4), "weight_decay": [0.0, 0.01, 0.1]},
    ),
}


@dataclass(frozen=True)
class Plan:
    """How a strategy chooses trials, and which it ends early."""

    space: dict[str, Any]
    samples: int
    epochs: int
    search: OptunaSearch | None = None
    scheduler: TrialScheduler | None = None


def plan(strategy: str, task: Task, given: argparse.Namespace) -> Plan:
    """Return how a strategy goes through the task."""
    if strategy == "grid":
        return Plan({name: tune.grid_search(values) for name, values in task.grid.items()}, 1, task.epochs)
    if strategy == "tpe":
        sampler = optuna.samplers.TPESampler(seed=given.seed)
        searcher = OptunaSearch(metric=task.quality, mode="max", sampler=sampler)
        return Plan(task.space, given.trials, task.epochs, search=searcher)
    if strategy == "asha":
        halving = ASHAScheduler(metric=task.quality, mode="max", max_t=task.epochs, grace_period=1, reduction_factor=2)
        return Plan(task.space, given.trials, task.epochs, scheduler=halving)
    if strategy == "pbt":
        population = PopulationBasedTraining(
            metric=task.quality,
            mode="max",
            perturbation_interval=max(1, task.epochs // 4),
            hyperparam_mutations=task.mutations,
            quantile_fraction=0.25 if given.population >= SMALLEST_WITH_QUARTERS else 0.5,
        )
        return Plan(task.space, given.population, given.most_epochs, scheduler=population)
    return Plan(task.space, given.trials, task.epochs)


def search(strategy: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run a strategy until the budget is used up, or it has no more trials; return what it came to."""
    task = TASKS[given.task]
    planned = plan(strategy, task, given)
    folder = given.output / strategy
    budget = SweepBudget(folder, max_kwh=given.max_kwh)
    fixed: dict[str, Any] = {"epochs": planned.epochs, "seed": given.seed}
    if given.task == "summarization":
        fixed |= {"checkpoints": strategy == "pbt", "finetune": given.finetune}
    resources = {"cpu": given.cpus, **({"gpu": given.gpus} if given.gpus else {})}
    results = tune.Tuner(
        tune.with_resources(task.train, resources),
        param_space={**planned.space, **fixed},
        tune_config=tune.TuneConfig(
            num_samples=planned.samples,
            search_alg=planned.search,
            scheduler=planned.scheduler,
            reuse_actors=not given.gpus,  # a GPU's memory is only all free after a process
        ),
        run_config=tune.RunConfig(
            name=strategy, storage_path=str(given.output), callbacks=[GreenTuneCallback()], stop=budget, verbose=0
        ),
    ).fit()
    epochs = [(result.metrics or {}).get("training_iteration", 0) for result in results]
    stopped = sum(number < planned.epochs for number in epochs)
    curve = list(best_over_time(folder, task.quality))
    return outcome(strategy, folder, curve, stopped=stopped, ended_by=budget.reason or "no more trials")


def collect(named: str, metric: str, *, lower: bool) -> dict[str, Any]:
    """Return what a sweep that ran elsewhere came to: NAME=FOLDER, with a folder for each of its trials."""
    name, _, folder = named.partition("=")
    if not Path(folder).is_dir() or not folder:
        sys.exit(f"--collect {named}: give NAME=FOLDER, a folder with one for each trial")
    ended, best = [], None
    for trial, path in trial_folders(folder).items():
        with contextlib.suppress(greenml.RecordError):
            record = greenml.open_record(path / "run.json")
            ended.append((record.ended or record.started, record.metrics.get(metric), trial))
    curve = []
    for when, value, trial in sorted(ended, key=lambda result: result[0]):
        if value is not None and (best is None or (value < best if lower else value > best)):
            best = value
            curve.append({"time": when.isoformat(), "best": best, "trial": trial})
    return outcome(name, Path(folder), curve, stopped=None, ended_by="collected")


def outcome(
    strategy: str, folder: Path, curve: list[dict[str, Any]], *, stopped: int | None, ended_by: str
) -> dict[str, Any]:
    """Return what a strategy found and used; what no record tells is None.

    Without a count of those that a scheduler stopped, the trials that were cut off count as stopped.
    """
    sweep = summarize(folder)
    total, trials = sweep["total"], sweep["trials"]
    folders = trial_folders(folder)
    records = [greenml.open_record(folders[name] / "run.json") for name in trials]
    joules, grams = total["facility_energy_joules"], total["emissions_grams"]
    cut_off = sum(record.status in ("killed", "interrupted") for record in records)
    return {
        "strategy": strategy,
        "best": curve[-1]["best"] if curve else None,
        "trials": len(trials),
        "stopped_early": cut_off if stopped is None else stopped,
        "continued": sum(len(record.attempts) > 1 for record in records),
        "failed": sum(trial["status"] == "failed" for trial in trials.values()),
        "seconds": total["seconds"],
        "energy_kwh": None if joules is None else joules / JOULES_PER_KWH,
        "emissions_kg": None if grams is None else grams / 1000,
        "cost_usd": total["cost_usd"].get("dedicated"),
        "ended_by": ended_by,
        "unmeasured": sweep["unmeasured"],
        "best_over_time": curve,
    }


def best_over_time(folder: Path, quality: str) -> Iterator[dict[str, Any]]:
    """Yield the best result so far each time that a trial reports a better one.

    Ray's own file of each trial, ``result.json``, has a line a report; those from before a trial went on from
    another's checkpoint are in it too.
    """
    lines = [line for path in folder.glob("*/result.json") for line in path.read_text().splitlines() if line.strip()]
    best = None
    for result in sorted(map(json.loads, lines), key=lambda result: result["timestamp"]):
        if quality in result and (best is None or result[quality] > best):
            best = result[quality]
            when = datetime.fromtimestamp(result["timestamp"], timezone.utc).isoformat()
            yield {"time": when, "best": best, "trial": result["trial_id"]}


COLUMNS = {
    "strategy": "strategy",
    "best": "best",
    "trials": "trials",
    "stopped_early": "stopped early",
    "continued": "continued",
    "failed": "failed",
    "seconds": "time (s)",
    "energy_kwh": "energy (kWh)",
    "emissions_kg": "emissions (kg CO2e)",
    "cost_usd": "cost ($)",
    "ended_by": "ended by",
}


def table(outcomes: list[dict[str, Any]]) -> str:
    """Return the comparison in Markdown; what is not known is a dash."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [[cell(row[name]) for name in COLUMNS] for row in outcomes]
    return "".join(f"| {' | '.join(row)} |\n" for row in (list(COLUMNS.values()), ["---"] * len(COLUMNS), *rows))


def options() -> argparse.Namespace:
    """Read the command line; what comes after ``--`` goes to finetune.py."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--task", choices=tuple(TASKS), default="digits", help="what is tuned (digits)")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), help="(all)")
    parser.add_argument("--max_kwh", type=float, help="needed: energy of each strategy, the facility's included")
    parser.add_argument(
        "--collect", nargs="+", default=[], metavar="NAME=FOLDER", help="compare sweeps that ran elsewhere; run nothing"
    )
    parser.add_argument("--metric", default="eval_rougeLsum", help="of the records of --collect (eval_rougeLsum)")
    parser.add_argument("--lower_is_better", action="store_true", help="of --metric, such as a loss")
    parser.add_argument("--trials", type=int, default=1000, help="at most, of random, tpe and asha (1000)")
    parser.add_argument("--population", type=int, default=4, help="of population based training (4)")
    parser.add_argument("--most_epochs", type=int, default=1000, help="of a trial of population based training (1000)")
    parser.add_argument("--gpus", type=float, default=0, help="of a trial (0)")
    parser.add_argument("--cpus", type=float, default=1, help="of a trial (1)")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parser.add_argument("--output", type=Path, default=Path("search-run"), help="folder for all that is made")
    parser.add_argument("finetune", nargs="*", help="after --: options of finetune.py")
    given = parser.parse_args()
    if given.max_kwh is None and not given.collect:
        parser.error("--max_kwh is needed: --max_kwh 2e-5")
    if given.task == "summarization" and "--model" not in given.finetune:
        parser.error("the task summarization needs a model: -- --model facebook/bart-large")
    return given


def main() -> None:
    """Run the strategies one after the other; write and print the comparison."""
    given = options()
    given.output = given.output.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    outcomes = [collect(named, given.metric, lower=given.lower_is_better) for named in given.collect]
    write(outcomes, given.output)
    if not given.collect:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "2")  # made in advance: no more than can soon begin
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for strategy in given.strategies:
            outcomes.append(search(strategy, given))
            write(outcomes, given.output)
        ray.shutdown()
    print(table(outcomes))


def write(outcomes: list[dict[str, Any]], folder: Path) -> None:
    """Write what is known so far."""
    (folder / "search.json").write_text(json.dumps(outcomes, indent=2) + "\n", encoding="utf-8")
    (folder / "search.md").write_text(table(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
