"""Real runs of a small problem: started as commands or through a deployment, watched, frozen, killed.

Every problem has its own dataset name and so its own MLflow experiment: what one test stores, no other finds.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from softgrpo.flows.services.control import Services
from softgrpo.tasks.servers.prefect_api import open_session
from tests.support.warm import COMMAND, WarmProcess

ROOT = Path(__file__).parents[2]
NODES = ("split", "recall-BPR", "recall-ItemKNN", "data", "check", "gates", "sft", "grpo", "test")
RECALLERS = ["BPR", "ItemKNN"]
SETTINGS: dict[str, Any] = {
    "recall.settings": {"BPR": {"epochs": 10}},
    "policy.frozen_layers": 0,  # the model of these tests has fewer than that of the size tiny
    "sft.num_train_epochs": 30,
    "grpo.num_train_epochs": 10,
    "grpo.learning_rate": 1e-3,
    "evaluation.bootstrap": 2000,
    "evaluation.baselines": ["cem", "stacking"],
}
"""The stages take seconds: long enough to be hit in the middle."""
LOG_PAUSE_SECONDS = 3.0
"""Longer than Prefect gathers lines of a log before it sends them."""
CHECKPOINT = "stages/.work/{}-*/checkpoints/checkpoint-*/trainer_state.json"
MARK = "stages/sft-*.json"
"""SFT is finished on this machine; MLflow hears of it next."""
FREEZING = f"""
import fnmatch, os, signal
_replace = os.replace
def _replace_and_freeze(source, target, **options):
    _replace(source, target, **options)
    if fnmatch.fnmatch(str(target), "*/" + {{pattern!r}}):
        os.replace = _replace
        os.kill(os.getpid(), signal.SIGSTOP)
os.replace = _replace_and_freeze
{COMMAND}
"""
"""The command, in a process that stops itself once a file or folder has got its final name: whoever watches may come too late."""
PATIENCE_SECONDS = 300.0  # a run takes some 15 s on a quiet machine
USERS, ITEMS, GROUPS, HISTORY = 60, 80, 4, 24
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def write_dataset(folder: Path, name: str, users: int = USERS) -> None:
    """Writes RecBole's atomic files of users in four groups, each of which likes its own quarter of the items."""
    draw = random.Random(5)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        own = [item for item in range(ITEMS) if item % GROUPS == user % GROUPS]
        others = [item for item in range(ITEMS) if item % GROUPS != user % GROUPS]
        liked = draw.sample(own, 17) + draw.sample(others, HISTORY - 17)
        draw.shuffle(liked)
        lines += [f"u{user}\ti{item}\t4\t{1_000_000_000 + 3600 * place}" for place, item in enumerate(liked)]
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_model(folder: Path) -> None:
    """Writes a BERT of two layers, small enough to be trained for many steps within seconds."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.support.toy_policy import WORDS, toy_tokenizer

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=512, pad_token_id=0, **sizes)
    BertModel(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)


def free_port() -> int:
    """Returns a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_checkpoint(output: Path, stage: str) -> bool:
    """Returns whether a training has written a checkpoint to its end; its state is written last, and half of it is no JSON."""
    for path in output.glob(CHECKPOINT.format(stage)):
        with suppress(json.JSONDecodeError, FileNotFoundError):  # a newer checkpoint may replace it meanwhile
            json.loads(path.read_text(encoding="utf-8"))
            return True
    return False


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS, pause: float = 0.2) -> Any:
    """Returns what a condition gives once it is true.

    Raises:
        AssertionError: It does not become true in time.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} within {seconds:g} s"
        time.sleep(pause)
    return found


def descendants(pid: int, words: str) -> list[psutil.Process]:
    """Returns the running descendants of a process whose command line contains words."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:  # also a zombie
            continue  # it has ended meanwhile
    return found


def process_of(flow_run: str) -> psutil.Process | None:
    """Returns the process that runs a flow run of a worker."""
    for process in psutil.process_iter():
        try:
            runs_it = process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run
            if runs_it and not process.children():
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it has ended meanwhile
    return None


@dataclass(frozen=True)
class Command:
    """A run that was started as a command.

    Attributes:
        process: Its process, leader of a group of its own.
        log: All it says.
        output: Its output folder.
    """

    process: WarmProcess
    log: Path
    output: Path

    def said(self) -> str:
        """Returns all it has said so far."""
        return self.log.read_text(encoding="utf-8")

    def end(self, code: int = 0, seconds: float = PATIENCE_SECONDS) -> str:
        """Waits for its end and returns what it said."""
        assert self.process.wait(timeout=seconds) == code, self.said()
        return self.said()

    def freeze_at(self, pattern: str) -> None:
        """Stops the process, so that nothing in it goes on, as soon as a file below the output folder is there."""
        self._freeze_when(lambda: any(self.output.glob(pattern)), pattern)

    def freeze_at_checkpoint(self, stage: str) -> None:
        """Stops the process as soon as a training has written a checkpoint from which it can go on."""
        self._freeze_when(lambda: has_checkpoint(self.output, stage), f"a checkpoint of {stage}")

    def _freeze_when(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, f"no {what}: {self.said()}"
            time.sleep(0.002)
        self.process.send_signal(signal.SIGSTOP)

    def frozen(self) -> None:
        """Waits until a process that was started with `frozen_at` has stopped itself."""
        process = psutil.Process(self.process.pid)

        def stopped() -> bool:
            assert self.process.poll() is None, self.said()
            return process.status() == psutil.STATUS_STOPPED

        wait_until(stopped, "it stops itself", pause=0.02)

    def go_on(self) -> None:
        """Lets a frozen process go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process and all of its group as `kill -9` does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Problem:
    """A small dataset, a small model and an output folder.

    Attributes:
        dataset: Name of the dataset.
        data: Folder that holds the dataset's folder.
        model: Folder of the language model.
        output: Output folder of the runs.
        services: Servers that runs report to; None where MLflow is a file.
        prefect: Address of a Prefect server for runs without services; None where each brings its own.
    """

    dataset: str
    data: Path
    model: Path
    output: Path
    services: Services | None
    prefect: str | None

    @property
    def addresses(self) -> dict[str, str]:
        """The servers as a shell would name them."""
        if self.services is not None:
            return self.services.addresses
        return {} if self.prefect is None else {"PREFECT_API_URL": self.prefect}

    def settings(self, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the overrides that all runs of the problem have in common."""
        return {"data.data_path": str(self.data), "policy.model_name": str(self.model), **SETTINGS, **(more or {})}

    def start(
        self,
        *words: str,
        stage: str = "full",
        more: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        program: str = COMMAND,
        frozen_at: str = "",
        folder: Path = ROOT,
    ) -> Command:
        """Starts a run as a command.

        Args:
            words: Further words of the command line.
            stage: Last stage wanted.
            more: Further settings by dotted path.
            environment: Further environment variables.
            program: What Python runs, as behind `-c`.
            frozen_at: Instead of it, the command that stops itself once a file of this pattern has got its final name.
            folder: Working directory.
        """
        command = ["run", self.dataset, stage, "tiny", "--output", str(self.output)]
        command += ["--recbole_models", *RECALLERS, *flags(self.settings(more)), *words]
        return self.order(*command, environment=environment, program=program, frozen_at=frozen_at, folder=folder)

    def order(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        program: str = COMMAND,
        frozen_at: str = "",
        folder: Path = ROOT,
    ) -> Command:
        """Starts any sub-command of `softgrpo`; for the options see `start`."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        log = self.output.parent / f"{self.output.name}-{time.monotonic_ns()}.log"
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **self.addresses, **(environment or {})}
        if frozen_at:
            program = FREEZING.format(pattern=frozen_at)
        return Command(WarmProcess(program, list(command), folder, variables, log), log, self.output)

    def run(self, *words: str, **options: Any) -> str:
        """Makes a whole run and returns what it said."""
        return self.start(*words, **options).end()


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Returns settings by dotted path as words of a command line."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            words += [f"--{name}", *value]
        else:
            words.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def until(node: str) -> list[str]:
    """Returns the nodes that a run with this last stage has; policies do not need `gates`."""
    nodes = NODES[: NODES.index(node) + 1]
    return [name for name in nodes if name != "gates" or node not in ("sft", "grpo")]


def stages_run(said: str) -> list[str]:
    """Returns the nodes whose stage was begun, in order, as a run's log tells."""
    return re.findall(r"\| (\S+): running$", said, re.MULTILINE)


def digests(output: Path) -> dict[str, str]:
    """Returns the content digest of every committed node of an output folder."""
    marks = [json.loads(path.read_text()) for path in (output / "stages").glob("*.json")]
    return {mark["key"].rpartition("-")[0]: mark["digest"] for mark in marks}


class Api:
    """What the pages of Prefect do, through the same requests.

    Args:
        services: The running services.
    """

    def __init__(self, services: Services) -> None:
        self._address = services.addresses["PREFECT_API_URL"]
        self.open()

    def open(self) -> None:
        """Gets a token from the server; one of before is worth nothing once the server has lost its database."""
        # 503: its database is busy and it asks to be asked again; Prefect's own clients do the same
        retry = Retry(total=8, connect=8, status_forcelist=[503], allowed_methods=None, backoff_factor=0.5)
        self._session = open_session(self._address)
        self._session.mount("http://", HTTPAdapter(max_retries=retry))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | list[Any] | None = None) -> Any:
        """Returns the answer to a request, None for an empty one."""
        answer = self._session.request(method, f"{self._address}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self.ask("POST", path, body)

    def _get(self, path: str) -> Any:
        return self.ask("GET", path)

    def deployment(self, name: str) -> str:
        """Returns the id of a deployment."""
        return str(self._get(f"deployments/name/softgrpo/{name}")["id"])

    def start(self, problem: Problem, deployment: str = "full", **parameters: Any) -> str:
        """Starts a run of a deployment and returns its id."""
        given = {
            "dataset": problem.dataset,
            "recallers": RECALLERS,
            "overrides": problem.settings(),
            "output": str(problem.output),
            **parameters,
        }
        return str(
            self._post(f"deployments/{self.deployment(deployment)}/create_flow_run", {"parameters": given})["id"]
        )

    def cancel(self, flow_run: str) -> None:
        """Does what the page's button Cancel does."""
        self._post(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def state(self, flow_run: str) -> str:
        """Returns the type of a flow run's state, such as RUNNING."""
        return str(self._get(f"flow_runs/{flow_run}")["state_type"])

    def message(self, flow_run: str) -> str:
        """Returns what a flow run's state says."""
        return str(self._get(f"flow_runs/{flow_run}")["state"]["message"])

    def artifact(self, flow_run: str, key: str) -> str:
        """Returns the id of an artifact of a flow run."""
        found = self._post(
            "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}, "key": {"any_": [key]}}}
        )
        return str(found[0]["id"])

    def end(self, flow_run: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Waits for the end of a flow run and returns its state."""
        wait_until(lambda: self.state(flow_run) in FINAL, f"flow run ends (is {self.state(flow_run)})", seconds)
        return self.state(flow_run)

    def latest(self, problem: Problem) -> str:
        """Returns the id of the newest flow run of a problem."""
        found = self._post("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 50})
        return next(str(run["id"]) for run in found if run["parameters"].get("dataset") == problem.dataset)

    def lines(self, flow_run: str) -> str:
        """Returns the log of a flow run as its page shows it, once nothing has been added to it for some seconds.

        Its process sends lines in batches, the last ones behind its final state.
        """
        said = self._lines(flow_run)
        while True:
            time.sleep(LOG_PAUSE_SECONDS)
            before, said = said, self._lines(flow_run)
            if said == before:
                return said

    def _lines(self, flow_run: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(f"| {line['message']}" for line in self._post("logs/filter", wanted))


class Tracked:
    """What MLflow knows of a problem.

    Args:
        problem: The problem.
        uri: Address of the tracking store; None takes the problem's server.
    """

    def __init__(self, problem: Problem, uri: str | None = None) -> None:
        from mlflow import MlflowClient

        if uri is None:
            assert problem.services is not None
            uri = problem.services.addresses["MLFLOW_TRACKING_URI"]
        self.client = MlflowClient(uri)
        self._experiment = f"softgrpo/{problem.dataset}"

    @property
    def experiment(self) -> str:
        """Id of the problem's experiment."""
        experiment = self.client.get_experiment_by_name(self._experiment)
        assert experiment is not None
        return str(experiment.experiment_id)

    def runs(self, query: str = "") -> list[Any]:
        """Returns the runs that a query finds, the oldest first."""
        return list(self.client.search_runs([self.experiment], query, order_by=["attributes.start_time ASC"]))

    def states(self, node: str) -> list[str]:
        """Returns the states of all runs of a node, the oldest first; the node `pipeline` are the runs of whole pipelines."""
        query = "tags.stage = 'pipeline'" if node == "pipeline" else f"tags.node = '{node}'"
        return [str(run.info.status) for run in self.runs(query)]

    def committed(self) -> list[str]:
        """Returns the nodes that are committed, once for each commit, sorted."""
        return sorted(run.data.tags["node"] for run in self.runs("tags.committed = 'true'"))


def fill(disk: Path) -> Path:
    """Writes a file that takes all the space a disk has left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return filler
