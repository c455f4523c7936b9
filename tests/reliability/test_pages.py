"""The pages that people look at, in a real browser: the form of a deployment, a finished flow run, MLflow's runs and models.

With SOFTGRPO_SCREENSHOTS=FOLDER the pages are also saved as pictures there, which is how those in docs/images were made.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, TimeoutError, expect, sync_playwright

from softgrpo.flows.services.control import Services
from softgrpo.tasks.tracking.headline import GRPO, SINGLE, STATIC, VS_SINGLE, VS_STATIC
from softgrpo.tasks.tracking.pages import run_page, start_page
from tests.reliability.runs import RECALLERS, ROOT, Api, Problem, Tracked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_MILLISECONDS = 60_000


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless Chromium."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "these tests need chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        # in a container Chromium's own sandbox has no right to start
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        yield page
        browser.close()


def keep(page: Page, name: str) -> None:
    """Saves a picture of the page if somebody wants it."""
    if folder := os.environ.get("SOFTGRPO_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # what is drawn after the text
        page.screenshot(path=Path(folder) / f"{name}.png")


def check_result(page: Page) -> None:
    """Checks the page on which Prefect shows what a run came to: verdict, table, figure, links; all of it in 1280 pixels."""
    page.set_viewport_size({"width": 1280, "height": 1000})
    expect(page.get_by_role("heading", name="Comparison on the test windows")).to_be_visible()
    text = page.locator("body").inner_text()
    assert text.index("SofT-GRPO multi") < text.index("Comparison on the test windows")  # the verdict comes first
    headings = page.locator("th").all_inner_texts()
    assert headings[0] == "method" and len(headings) <= 8
    assert "difference to the\nbest static mixture" in headings and not any("vs_" in heading for heading in headings)
    width = "table => [table.scrollWidth, table.parentElement.clientWidth]"
    needed, there = page.locator("table").first.evaluate(width)
    assert needed <= there
    figure = page.get_by_role("img", name="NDCG of every method")
    expect(figure).to_be_visible()
    assert figure.evaluate("image => image.complete && image.naturalWidth > 500")
    report = page.get_by_role("link", name="report.html").get_attribute("href")
    page.goto(str(report))
    expect(page.frame_locator("iframe").get_by_text("SofT-GRPO multi").first).to_be_visible()


def test_a_failed_run_says_what_failed_first_and_once(
    make_problem: Callable[..., Problem], services: Services, page: Page
) -> None:
    problem, api = make_problem("failing", services), Api(services)
    settings = problem.settings({"limits.stage_hours": 1e-6})
    parameters = {
        "dataset": problem.dataset,
        "recallers": RECALLERS,
        "overrides": settings,
        "output": str(problem.output),
    }
    words = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
    watched = subprocess.run(
        [str(Path(sys.executable).parent / "prefect"), "deployment", "run", "softgrpo/full", *words, "--watch"],
        cwd=ROOT,
        env={**os.environ, **services.addresses, "COLUMNS": "10000"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = api.latest(problem)
    message = "split took longer than 1e-06 hours. limits.stage_hours is the longest that a stage may take"
    assert watched.returncode == 1, watched.stdout + watched.stderr
    assert watched.stdout.count(message) == 1 and "Traceback" not in watched.stdout
    assert api.message(failed).startswith(message)
    assert [line for line in api.lines(failed).splitlines() if message in line] == api.lines(failed).splitlines()[-1:]
    assert "Traceback" not in api.lines(failed)

    page.goto(f"{services.addresses['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{failed}")
    expect(page.get_by_text(message, exact=False).first).to_be_visible()
    keep(page, "failed-run")


def test_form_flow_run_and_comparison(make_problem: Callable[..., Problem], services: Services, page: Page) -> None:
    problem, api = make_problem("pages", services), Api(services)
    first = api.start(problem)
    assert api.end(first, seconds=300) == "COMPLETED"
    second = api.start(problem, overrides=problem.settings({"grpo.tau_gumbel": 0.5}))
    assert api.end(second, seconds=300) == "COMPLETED"
    said = api.lines(first)  # what recallers and trainers say, on the same page
    for line in (r"step \d+: .*recall_loss [\d.]+", r"step \d+: .*ratio_mean [\d.]+", r"sampled_weight_BPR [\d.]+"):
        assert re.search(line, said), said

    prefect = services.addresses["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{prefect}/deployments/deployment/{api.deployment('full')}/run")
    expect(page.get_by_text("from_run", exact=False).first).to_be_visible()
    for parameter in ("dataset", "data_path", "size", "until", "recallers", "merge_method", "seed", "config", "debug"):
        expect(page.get_by_text(parameter, exact=False).first).to_be_visible()
    for choice in ("found here", "another"):  # of data sets
        expect(page.get_by_text(choice, exact=True)).to_be_visible()
    page.set_viewport_size({"width": 1440, "height": 1420})  # down to the fields of the frequent settings
    keep(page, "deployment-form")
    page.set_viewport_size({"width": 1440, "height": 1000})

    page.goto(f"{prefect}/runs/flow-run/{first}")
    expect(page.get_by_text("Completed", exact=False).first).to_be_visible()
    expect(page.get_by_text("pages tiny, seed 42", exact=False).first).to_be_visible()
    expect(page.get_by_text("recall-BPR", exact=False).first).to_be_visible()

    page.goto(f"{prefect}/artifacts/artifact/{api.artifact(first, 'result')}")
    keep(page, "flow-run")
    check_result(page)

    tracked = Tracked(problem)
    runs = [run.info.run_id for run in tracked.runs("tags.stage = 'pipeline'")]
    done = subprocess.run(
        [sys.executable, "-m", "softgrpo.flows.cli", "compare", *runs, "--json", "--output", str(problem.output)],
        cwd=ROOT,
        env={**os.environ, **services.addresses},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    assert len(compared["verdicts"]) == 1
    assert {row["run"] for row in compared["rows"]} == {run[:6] for run in runs}
    assert {(run["label"], run["run_id"]) for run in compared["runs"]} == {(run[:6], run) for run in runs}
    page.goto(compared["link"])
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for run in runs:
        expect(page.get_by_text(run).first).to_be_visible()
    expect(page.get_by_text("grpo.tau_gumbel").first).to_be_attached()
    newcomer = tracked.client.create_run(
        tracked.experiment, tags={"stage": "pipeline"}, run_name="of an earlier version"
    )
    tracked.client.log_metric(newcomer.info.run_id, "ndcg_at_10/grpo_multi", 0.5)
    look_at_mlflow(page, tracked.client, services.addresses["MLFLOW_TRACKING_URI"], runs[1], lines=2)


def close_assistant(page: Page) -> None:
    """Closes MLflow's assistant where it is open: it opens by itself on the first visit and takes a third of the page."""
    with suppress(TimeoutError):
        page.get_by_role("button", name="Close").first.click(timeout=10_000)


def look_at_mlflow(page: Page, client: MlflowClient, server: str, run_id: str, lines: int) -> None:
    """Opens MLflow's pages of a finished run as a user would, from the address that `make services` prints.

    Args:
        page: A page of the browser.
        client: Knows what the pages must show.
        server: Address of MLflow.
        run_id: The run of a pipeline.
        lines: How many runs the saved view has.
    """
    run = client.get_run(run_id)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(server)
    close_assistant(page)
    page.goto(start_page(server))
    for heading in (VS_SINGLE, VS_STATIC):  # which come first, since the assistant may still be open
        expect(page.get_by_role("columnheader", name=heading).first).to_be_in_viewport()
    close_assistant(page)
    for heading in (SINGLE, STATIC, GRPO, VS_SINGLE, VS_STATIC):
        expect(page.get_by_role("columnheader", name=heading).first).to_be_in_viewport()
    for name in (SINGLE, STATIC, GRPO):
        shown = f"{run.data.metrics[name]:.4f}".rstrip("0")
        expect(page.get_by_role("gridcell", name=shown).first).to_be_in_viewport()
    for name in (VS_SINGLE, VS_STATIC):
        expect(page.get_by_role("gridcell", name=run.data.tags[name]).first).to_be_in_viewport()
    expect(page.get_by_text(f"{lines} matching runs")).to_be_visible()  # no stages, and no runs without results
    keep(page, "mlflow-single-against-multi")

    page.goto(f"{server}/{run_page(run.info.experiment_id, run_id)}")
    expect(page.get_by_role("heading", name=run.info.run_name)).to_be_visible()
    page.get_by_text("Show more").click()
    expect(page.get_by_role("cell", name="Best static mixture")).to_be_visible()
    registered = page.get_by_role("link", name="Registered model")
    expect(registered).to_have_count(2)
    keep(page, "mlflow-run")
    page.goto(f"{server}/{registered.first.get_attribute('href')}")
    recallers = json.loads(run.data.params["recall.recallers"])
    outputs = ["request", "rank", "item", "title", "score", "method", "reason"]
    outputs += [f"{of}_{name}" for of in ("from", "weight") for name in recallers]
    expect(page.get_by_text(f"Outputs ({len(outputs)})")).to_be_visible()
    keep(page, "mlflow-registered-model")
