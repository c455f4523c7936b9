"""How settings change what SofT-GRPO learns on a problem with a known optimum, one factor at a time from the default.

Prints a Markdown table: shares of the optimum, mean and range over seeds. Writes the curves to the output folder as `curves.csv`
and, where matplotlib is installed, `curves.png`. Run `python examples/learning_curves.py`; it takes about a minute on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from pathlib import Path
from typing import Any

from learning_problem import MIXTURE, READINGS, Learned, Problem, learn

SETTINGS: dict[str, dict[str, Any]] = {
    "default (tau 1.0, top_p 0.9, noise)": {},
    "tau 0.3": {"tau_gumbel": 0.3},
    "tau 2.0": {"tau_gumbel": 2.0},
    "top_p 1.0": {"top_p": 1.0},
    "concrete": {"importance_ratio": "concrete"},
    "discrete GRPO": {"sampling": "discrete"},
    "discrete GRPO, top_p 1.0": {"sampling": "discrete", "top_p": 1.0},
}
GOAL = 0.95
Runs = dict[str, list[Learned]]


def spread(values: list[float]) -> str:
    """Returns mean and range of shares, in percent."""
    mean = sum(values) / len(values)
    return f"{100 * mean:.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def steps_to_goal(runs: list[Learned]) -> str:
    """Returns at which step each run's softmax(z) was first seen at `GOAL`, in the order of the seeds."""
    reached = ([step for step, _, share in run.curve if share >= GOAL] for run in runs)
    return ", ".join(str(steps[0]) if steps else "never" for steps in reached)


def table(runs: Runs) -> str:
    """Returns a Markdown table with one row per setting."""
    head = ["setting", *(f"{reading}, %" for reading in READINGS), f"steps to {100 * GOAL:.0f} %"]
    lines = [head, ["---"] * len(head)]
    for name, each in runs.items():
        lines.append([name, *(spread([run.end[reading] for run in each]) for reading in READINGS), steps_to_goal(each)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(runs: Runs, path: Path) -> None:
    """Writes one line per setting, seed and point of the curve."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "seed", "step", "sampled_reward", "share_of_optimum"])
        for name, each in runs.items():
            for seed, run in enumerate(each):
                writer.writerows([name, seed, *point] for point in [(0, "", run.start), *run.curve])


def draw(runs: Runs, problem: Problem, path: Path) -> None:
    """Draws the mean over seeds: reward of the samples, and share of the optimum of softmax(z)."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4))
    for name, each in runs.items():
        steps = [step for step, *_ in each[0].curve]
        for axes, column in ((left, 1), (right, 2)):
            points = zip(*([point[column] for point in run.curve] for run in each), strict=True)
            axes.plot(steps, [sum(point) / len(each) for point in points], label=name)
    right.axhline(problem.static / problem.optimum, color="grey", linestyle="--", label="best static mixture")
    right.axhline(problem.single / problem.optimum, color="grey", linestyle=":", label="best single per context")
    left.set(xlabel="optimiser step", ylabel="reward of the samples (NDCG@10)")
    right.set(xlabel="optimiser step", ylabel="share of the optimum, softmax(z)")
    right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/learning_curves"), help="folder of the curves")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per setting")
    parser.add_argument(
        "--mixture", type=float, nargs=3, default=MIXTURE, help="the hidden mixtures are its permutations"
    )
    parser.add_argument("--epochs", type=int, default=40, help="passes over the prompts")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    problem = Problem.make(tuple(given.mixture))
    runs = {
        name: [learn(problem, seed, num_train_epochs=given.epochs, **changes) for seed in range(given.seeds)]
        for name, changes in SETTINGS.items()
    }
    start = spread([run.start for run in runs[next(iter(SETTINGS))]])
    print(table(runs))
    print(f"\nBest static mixture: {100 * problem.static / problem.optimum:.1f} % of the optimum.", end=" ")
    print(
        f"Best single recaller per context: {100 * problem.single / problem.optimum:.1f} %. Before training: {start} %."
    )
    write_csv(runs, given.output / "curves.csv")
    if importlib.util.find_spec("matplotlib"):
        draw(runs, problem, given.output / "curves.png")


if __name__ == "__main__":
    main()
