"""What slow and unstable training look like in the logged numbers, at learning rates from too low to too high.

Prints a Markdown table. Run `python examples/learning_rates.py`; it takes about 20 seconds on a CPU.
"""

from __future__ import annotations

import argparse

from learning_problem import READINGS, Problem, learn

RATES = (3e-5, 3e-4, 3e-3, 3e-2, 1e-1, 3e-1)
COLUMNS = (
    "kl, last",
    "ratio_max, largest",
    "clipped, largest",
    "policy_entropy, last",
    "frac_support_one, last",
    "share of the optimum",
)


def row(problem: Problem, rate: float, seed: int) -> list[float]:
    """Trains once and returns the numbers of `COLUMNS`; clipped is the share above and below together."""
    learned = learn(problem, seed, learning_rate=rate, num_iterations=2)
    logged = [entry for entry in learned.logged if "ratio_max" in entry]
    return [
        logged[-1]["kl"],
        max(entry["ratio_max"] for entry in logged),
        max(entry["clip_ratio_low"] + entry["clip_ratio_high"] for entry in logged),
        logged[-1]["policy_entropy"],
        logged[-1]["frac_support_one"],
        learned.end[READINGS[0]],
    ]


def main(words: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    problem = Problem.make()
    print(f"| {' | '.join(('learning rate', *COLUMNS))} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for rate in given.rates:
        print(f"| {rate:g} | {' | '.join(f'{value:.3g}' for value in row(problem, rate, given.seed))} |", flush=True)


if __name__ == "__main__":
    main()
