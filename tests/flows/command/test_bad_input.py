"""Bad input is refused before any training: exit code 2, one message with its code and the value that was received.

Nothing is written, and no traceback is shown.
"""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from softgrpo.config import ExperimentConfig
from softgrpo.errors import PolicyError
from softgrpo.flows.cli import main
from softgrpo.flows.runtime.environment import check_servers, prepare
from softgrpo.pipeline.preflight import preflight
from softgrpo.pipeline.run import RunResult
from softgrpo.presets import resolve

LIMIT_SECONDS = 10.0
USERS, ITEMS = 12, 15


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: What is wrong.
        words: The command line; {data} and {tmp} are folders of the test.
        code: The error's code.
        received: What the message must quote of the input.
        names: Another value that it must name, such as the nearest known name or a default.
        spoil: Changes the good dataset `shop` in the data folder before the command.
    """

    name: str
    words: str
    code: str
    received: str
    names: str = ""
    spoil: Callable[[Path], object] = lambda shop: None


def write_shop(shop: Path) -> None:
    """Writes a small good dataset: every user has all items but one, in an order of their own."""
    shop.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        kept = [(user + step * 2) % ITEMS for step in range(ITEMS) if step != user]
        lines += [f"u{user}\ti{item}\t{1 + item % 5}\t{1000 + 10 * position}" for position, item in enumerate(kept)]
    (shop / "shop.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = [
        "item_id:token\ttitle:token_seq\tgenres:token_seq",
        *(f"i{item}\tItem {item}\tKind {item % 3}" for item in range(ITEMS)),
    ]
    (shop / "shop.item").write_text("\n".join(items) + "\n", encoding="utf-8")


def replace_line(name: str, line: int, text: str) -> Callable[[Path], object]:
    """Returns a spoiler that replaces a line of a file, 1-based."""

    def spoil(shop: Path) -> None:
        lines = (shop / name).read_text(encoding="utf-8").splitlines()
        lines[line - 1] = text
        (shop / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    return spoil


def content(name: str, data: bytes) -> Callable[[Path], object]:
    """Returns a spoiler that gives a file other content."""
    return lambda shop: (shop / name).write_bytes(data)


def short_histories(shop: Path) -> None:
    """Leaves each user two interactions."""
    lines = (shop / "shop.inter").read_text(encoding="utf-8").splitlines()
    kept = [line for user in range(USERS) for line in [line for line in lines if line.startswith(f"u{user}\t")][:2]]
    (shop / "shop.inter").write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")


def folder_for_file(shop: Path) -> None:
    """Puts a folder where the interactions should be."""
    (shop / "shop.inter").unlink()
    (shop / "shop.inter").mkdir()


def damaged(name: str) -> Callable[[Path], object]:
    """Returns a spoiler that makes a SQLite file with a right beginning and pages that are not."""

    def spoil(shop: Path) -> None:
        path = shop / name
        path.parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("create table t (a primary key, b)")
            database.executemany("insert into t values (?, ?)", ((number, "x" * 500) for number in range(200)))
            database.commit()
        data = path.read_bytes()
        path.write_bytes(data[:5000] + b"\xff" * 4000 + data[9000:])

    return spoil


LONG = "n" * 200_000
LEVELS = "[" * 30 + "]" * 30
BOMB = "{{{{a: &a [x, x, x], b: &b [*a, *a, *a], c: [*b, *b, *b]}}}}"
RUN = "run ml-100k standalone tiny"
SHOP = "run shop standalone tiny --data-path {data} --recbole_models BPR ItemKNN"

COMMAND_LINE = [
    Case("command", "rum ml-100k full tiny", "CONFIG-004", "'rum'", names="'run'"),
    Case("no command", "", "CONFIG-005", "COMMAND"),
    Case("missing words", "run ml-100k", "CONFIG-007", "STAGE, SIZE"),
    Case("word too many", f"{RUN} now", "CONFIG-011", "'now'"),
    Case("stage", "run ml-100k ful tiny", "CONFIG-071", "'ful'", names="'full'"),
    Case("size", "run ml-100k full tinny", "CONFIG-048", "'tinny'", names="'tiny'"),
    Case("size as a flag", f"{RUN} --size huge", "CONFIG-048", "'huge'", names="large, mini, small, tiny"),
    Case("flag", f"{RUN} --topp 0.5", "CONFIG-009", "'--topp'", names="'--top_p'"),
    Case(
        "another command's flag",
        "ablate prompt ml-100k debug tiny --force sft",
        "CONFIG-009",
        "'--force'",
        names="It is a flag of `softgrpo run`, `softgrpo standalone`, `softgrpo pure`",
    ),
    Case(
        "a flag of run", "standalone --parallel 2", "CONFIG-009", "'--parallel'", names="It is a flag of `softgrpo run`"
    ),
    Case(
        "a setting of a run",
        "report RUN --top_p 0.5",
        "CONFIG-009",
        "'--top_p'",
        names="It is a flag of `softgrpo run`",
    ),
    Case("a flag of tune", "run ml-100k full tiny --trials 3", "CONFIG-009", "'--trials'", names="of `softgrpo tune`."),
    Case("setting", f"{RUN} --grpo.tau_gumble 0.5", "CONFIG-009", "'--grpo.tau_gumble'", names="'--grpo.tau_gumbel'"),
    Case("flag without value", f"{RUN} --top_p", "CONFIG-007", "--top_p", names="expected one argument"),
    Case("pure without stage", "pure --dataset ml-1m", "CONFIG-002", "No stage"),
    Case("output empty", f"{RUN} --output ''", "CONFIG-007", "--output: ''", names="is the working directory"),
    Case("flag before", "run --force sft ml-100k full tiny", "CONFIG-007", "STAGE"),
    Case("word behind a switch", f"{RUN} --bf16 maybe", "CONFIG-010", "--bf16 maybe"),
    Case("switch in the middle", f"{RUN} --prompt.titles no --seed 7", "CONFIG-010", "--prompt.titles no"),
    Case("help as a word", "help", "CONFIG-004", "'help'"),
    Case("cluster of one process", f"{RUN} --dask tcp://h:1", "CONFIG-022", "--parallel or --dask"),
    Case(
        "damaged database",
        "run ml-100k full tiny --output {data}/shop",
        "STORE-031",
        "{data}/shop/mlflow.db",
        spoil=content("mlflow.db", b"garbage"),
    ),
    Case(
        "damaged database to read",
        "runs --output {data}/shop",
        "STORE-031",
        "{data}/shop/mlflow.db",
        spoil=content("mlflow.db", b"garbage"),
    ),
    Case(
        "database with damaged pages",
        "run ml-100k full tiny --output {data}/shop",
        "STORE-032",
        "{data}/shop/mlflow.db' is damaged: ",
        spoil=damaged("mlflow.db"),
    ),
    Case(
        "database with damaged pages to read",
        "runs --output {data}/shop",
        "STORE-032",
        "{data}/shop/mlflow.db' is damaged: ",
        spoil=damaged("mlflow.db"),
    ),
    Case(
        "Prefect's database with damaged pages",
        "run ml-100k full tiny --output {data}/shop",
        "STORE-032",
        "{data}/shop/prefect/prefect.db' is damaged: ",
        spoil=damaged("prefect/prefect.db"),
    ),
    Case("long command", LONG, "CONFIG-004", "characters ...]nnn"),
    Case("long dataset", f"run {LONG} standalone tiny", "DATA-010", "characters ...]nnn"),
    Case("long flag", f"{RUN} --{LONG} 1", "CONFIG-009", "characters ...]nnn"),
    Case("long stage", f"{RUN} --force {LONG}", "CONFIG-071", "characters ...]nnn"),
    Case("long path", f"{RUN} --output /{LONG}", "STORE-010", "File name too long", names="characters ...]nnn"),
    Case(
        "stages is a file",
        f"{RUN} --output {{data}}/shop",
        "STORE-007",
        "{data}/shop/stages",
        spoil=content("stages", b""),
    ),
    Case("force", f"{RUN} --force sfft", "CONFIG-071", "'sfft'", names="'sft'"),
    Case("output is a file", f"{RUN} --output {{data}}/shop/shop.inter", "STORE-006", "shop.inter"),
    Case("output in a file", f"{RUN} --output {{data}}/shop/shop.inter/x", "STORE-006", "shop.inter/x"),
    Case("output nowhere", f"{RUN} --output /proc/x", "STORE-006", "/proc/x"),
    Case("output of a group", "tune ml-100k full tiny --output /proc/x", "STORE-006", "/proc/x"),
    Case("report of nothing", "report 0123abcd", "STORE-009", "--output outputs"),
    Case("list of nothing", "recommend 0123abcd", "STORE-009", "--output outputs"),
    Case("nothing to compare", "compare 0123abcd 0123abce", "STORE-009", "--output outputs"),
    Case(
        "run from nothing",
        "run ml-100k grpo tiny --from-run 0123abcd --output {tmp}/typo",
        "STORE-009",
        "--output {tmp}/typo",
    ),
    Case("empty list", "recommend 0123abcd --k 0", "CONFIG-019", "--k 0"),
    Case("no such format", "recommend 0123abcd --to x.csv", "CONFIG-070", "'x.csv'"),
    Case("list nowhere", "recommend 0123abcd --to /proc/x/y.json", "STORE-006", "--to /proc/x"),
    Case("list in the place of a folder", "recommend 0123abcd --to data/", "CONFIG-070", "'data'"),
    Case(
        "windows in the place of a file",
        "windows shop --data-path {data} --to {data}/shop/shop.inter",
        "STORE-006",
        "--to {data}/shop/shop.inter",
    ),
    Case("windows nowhere", "windows shop --data-path {data} --to /proc/x", "STORE-006", "--to /proc/x"),
    Case("report nowhere", "report 0123abcd --to /proc/x", "STORE-006", "--to /proc/x"),
]

SETTINGS = [
    Case("name of a recaller", f"{RUN} --recall.files.mine x.parquet", "CONFIG-062", "recall.files = mine"),
    Case("tau zero", f"{RUN} --tau_gumbel 0", "CONFIG-062", "grpo.tau_gumbel = 0", names="default 1"),
    Case("tau negative", f"{RUN} --tau-gumbel=-1", "CONFIG-062", "grpo.tau_gumbel = -1", names="default 1"),
    Case("tau infinite", f"{RUN} --tau-gumbel inf", "CONFIG-062", "grpo.tau_gumbel = inf", names="default 1"),
    Case("noise scale zero", f"{RUN} --grpo.noise_scale 0", "CONFIG-062", "grpo.noise_scale = 0", names="default 0.15"),
    Case("noise scale below rounding", f"{RUN} --grpo.noise_scale 1e-300", "CONFIG-062", "grpo.noise_scale = 1e-300"),
    Case("noise scale negative", f"{RUN} --grpo.noise-scale=-1", "CONFIG-062", "grpo.noise_scale = -1"),
    Case("last noise scale", f"{RUN} --grpo.noise_scale_end inf", "CONFIG-062", "grpo.noise_scale_end = inf"),
    Case("reward below the lists", f"{RUN} --grpo.reward_k 101", "CONFIG-061", "deeper than recall.depth = 100"),
    Case(
        "log probability without scores",
        f"{RUN} --grpo.reward log_probability --fusion.method quota",
        "CONFIG-061",
        "grpo.reward = log_probability needs merged scores",
    ),
    Case("delta within the clip", f"{RUN} --grpo.delta 1.2", "CONFIG-061", "must be above 1 + epsilon_high = 1.2"),
    Case("negative entropy", f"{RUN} --grpo.entropy_coef=-1", "CONFIG-062", "grpo.entropy_coef = -1"),
    Case(
        "top-p zero", f"{RUN} --top_p 0", "CONFIG-062", "grpo.top_p = 0", names="default 1 for ml-100k with size tiny"
    ),
    Case("top-p above one", f"{RUN} --top_p 1.01", "CONFIG-062", "grpo.top_p = 1.01", names="default 1 for"),
    Case("top-p no number", f"{RUN} --top_p most", "CONFIG-062", "grpo.top_p = most", names="default 1 for"),
    Case(
        "one sample",
        f"{RUN} --num_generations 1",
        "CONFIG-062",
        "grpo.num_generations = 1",
        names="default 64 for ml-100k with size tiny",
    ),
    Case(
        "half a sample",
        f"{RUN} --num_generations 2.5",
        "CONFIG-062",
        "grpo.num_generations = 2.5",
        names="default 64 for",
    ),
    Case("epsilon", f"{RUN} --epsilon=-0.2", "CONFIG-062", "grpo.epsilon = -0.2", names="default 0.2"),
    Case("beta", f"{RUN} --beta=-0.1", "CONFIG-062", "grpo.beta = -0.1", names="default 0.01"),
    Case("learning rate", f"{RUN} --learning_rate 0", "CONFIG-062", "sft.learning_rate = 0", names="default 5e-05"),
    Case(
        "learning rate NaN", f"{RUN} --grpo_lr nan", "CONFIG-062", "grpo.learning_rate = nan", names="default 1e-05 for"
    ),
    Case("epochs", f"{RUN} --num_train_epochs=-1", "CONFIG-062", "sft.num_train_epochs = -1", names="default 1 for"),
    Case("batch", f"{RUN} --per_device_train_batch_size 0", "CONFIG-062", "train_batch_size = 0", names="default 64"),
    Case("seed", f"{RUN} --seed x", "CONFIG-062", "seed = x", names="default 42"),
    Case("switch", f"{RUN} --bf16=maybe", "CONFIG-062", "train.bf16 = maybe", names="default false"),
    Case("choice", f"{RUN} --train.device tpu", "CONFIG-062", "train.device = tpu", names="default auto"),
    Case(
        "processes",
        f"{RUN} --train.processes 7",
        "CONFIG-061",
        "processes = 7 cannot share out the",
        names="divisor of",
    ),
    Case("two at once", f"{RUN} --top_p 2 --seed=-1", "CONFIG-063", "grpo.top_p = 2", names="seed = -1"),
    Case("pool of one", f"{RUN} --recbole_models BPR", "CONFIG-061", "holds 1"),
    Case("empty pool", f"{RUN} --recbole_models", "CONFIG-061", "holds 0"),
    Case("recaller twice", f"{RUN} --recbole_models BPR BPR", "RECALLER-012", "BPR, BPR"),
    Case("depth", f"{RUN} --recall.depth 20", "CONFIG-061", "recall.depth = 20"),
    Case("shares", f"{RUN} --split.recaller 0.8", "CONFIG-061", "= 1.1"),
    Case("record", f"{RUN} --split.record 0.7", "CONFIG-061", "record = 0.7"),
    Case("one part", f"{RUN} --split.cross_fit 1", "CONFIG-061", "cross_fit = 1", names="2 or more parts"),
    Case("parts in time", f"{RUN} --split.cross_fit 2 --split.method global_time", "CONFIG-061", "cross_fit = 2"),
    Case("stranger", f"{RUN} --recall.settings.BPR.epochs 1", "CONFIG-061", "BPR"),
    Case("mapping", f"{RUN} --recall.settings '{{{{a: ['", "CONFIG-008", "{{a: ["),
    Case(
        "below a mapping",
        f"{RUN} --recall.settings.SASRec.epochs '{{{{a: ['",
        "CONFIG-007",
        "--recall.settings.SASRec.epochs: {{a: [",
    ),
    Case("deep value", f"{RUN} --recall.settings.SASRec.x {LEVELS}", "CONFIG-007", "x: [[[[", names="nested deeper"),
    Case(
        "value that holds itself",
        f"{RUN} --recall.settings '&a [*a]'",
        "CONFIG-008",
        "&a [*a]",
        names="an anchor or an alias",
    ),
    Case(
        "value with aliases", f"{RUN} --recall.settings '{BOMB}'", "CONFIG-008", "&b [*a", names="an anchor or an alias"
    ),
    Case(
        "long value",
        f"{RUN} --recall.settings.SASRec.x {LONG}",
        "CONFIG-007",
        "characters ...]",
        names="200,000 characters",
    ),
    Case("long number", f"{RUN} --recall.settings.SASRec.x 0x{'f' * 999}", "CONFIG-053", "of 3996 bits"),
    Case(
        "value with a tag",
        f"{RUN} --recall.settings.SASRec.x '!!float '",
        "CONFIG-007",
        "!!float",
        names="it has a tag",
    ),
    Case("no such date", f"{RUN} --recall.settings.SASRec.epochs 2020-13-45", "CONFIG-007", "2020-13-45"),
]

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
OTHER_COLUMNS = "user_id:token\tthing:token\trating:float\ttimestamp:float"
UNTYPED = "user_id\titem_id\trating\ttimestamp"


def shop_case(name: str, code: str, received: str, spoil: Callable[[Path], object], names: str = "") -> Case:
    """Returns a case of a spoilt dataset."""
    return Case(name, SHOP, code, received, names, spoil)


def line_5(name: str, text: str, received: str) -> Case:
    """Returns a case in which line 5 of `shop.inter` is another one; the message names file and line."""
    spoil = replace_line("shop.inter", 5, text)
    return Case(name, SHOP, "DATA-004", f"{{data}}/shop/shop.inter, line 5: {received}", spoil=spoil)


BEFORE_TRAINING = [
    Case("dataset", "run ml-100kk standalone tiny", "DATA-010", "'ml-100kk'", names="Did you mean 'ml-100k'"),
    Case("no data path", "run shop standalone tiny --data-path {tmp}/none", "DATA-009", "{tmp}/none is not"),
    Case("data path is a file", "run shop standalone tiny --data-path {data}/shop/shop.inter", "DATA-009", "is a file"),
    shop_case("dataset is a folder", "DATA-010", "'shop'", spoil=folder_for_file),
    Case("recaller", f"{RUN} --recbole_models BPR SASRek", "RECALLER-011", "'SASRek'", names="'SASRec'"),
    Case(
        "file of a recaller",
        f"{RUN} --recall.files.Mine {{tmp}}/mine.parquet",
        "CANDIDATE-011",
        "{tmp}/mine.parquet (recaller Mine)",
    ),
    Case(
        "recaller setting",
        f"{RUN} --recall.settings.SASRec.hiden_size 8",
        "RECALLER-013",
        "'hiden_size'",
        names="'hidden_size'",
    ),
    Case("recaller epochs", f"{RUN} --recall.settings.SASRec.epochs 0", "RECALLER-014", "epochs = 0", names="default"),
    Case(
        "recaller size",
        f"{RUN} --recall.settings.SASRec.hidden_size 0",
        "RECALLER-014",
        "size = 0",
        names="default is 64",
    ),
    Case("hub model", f"{RUN} --model_name nobody/no-such-model", "POLICY-019", "'nobody/no-such-model'"),
    Case("model folder", f"{RUN} --model_name {{tmp}}/model", "POLICY-013", "'{tmp}/model'"),
    Case("model file", f"{RUN} --model_name {{tmp}}/m.gguf", "POLICY-013", "'{tmp}/m.gguf'"),
    Case("model of nobody", f"{RUN} --model_name ~nosuchuser/x", "POLICY-013", "'~nosuchuser/x'"),
    Case(
        "clipping",
        f"{RUN} --recall.settings.SASRec.clip_grad_norm '{{{{maxnorm: 5}}}}'",
        "RECALLER-014",
        "clip_grad_norm = {{'maxnorm': 5}}",
        names="max_norm, norm_type",
    ),
    Case("model package", f"{RUN} --model_name package:no_such/model", "POLICY-012", "package:no_such"),
    Case("no model in the folder", f"{RUN} --model_name {{data}}", "POLICY-015", "'{data}'"),
    Case("column named wrongly", f"{SHOP} --data.item_field item", "DATA-005", "'item'", names="'item_id'"),
    Case("title column", f"{SHOP} --data.title_field name", "DATA-005", "'name'", names="genres, item_id, title"),
    Case("rating column", f"{SHOP} --data.min_rating 3 --data.rating_field stars", "DATA-005", "'stars'"),
    Case("no rating column", f"{SHOP} --data.min_rating 3 --data.rating_field null", "DATA-006", "data.min_rating"),
    Case("ratings too low", f"{SHOP} --data.min_rating 9", "DATA-007", "'shop'"),
    Case(
        "parts without users", f"{SHOP} --split.cross_fit 2", "DATA-039", "with 12 users", names="Give 0, which is off"
    ),
    Case("core too large", f"{SHOP} --data.k_core 50", "DATA-007", "'shop'", names="50-core"),
    shop_case("short histories", "DATA-007", "'shop'", spoil=short_histories),
    shop_case("empty file", "DATA-004", "shop.inter, line 1: the file is empty", spoil=content("shop.inter", b"")),
    shop_case(
        "no text",
        "DATA-004",
        "shop.inter, line 1: byte 1 of the line is not UTF-8",
        spoil=content("shop.inter", b"\xff\xfe\x00\x01\n" * 9),
    ),
    shop_case("header only", "DATA-004", "shop.inter, line 2: ", spoil=content("shop.inter", HEADER.encode())),
    shop_case(
        "header without types",
        "DATA-004",
        "shop.inter, line 1: header column 'user_id'",
        spoil=replace_line("shop.inter", 1, UNTYPED),
    ),
    shop_case(
        "column missing",
        "DATA-005",
        "'item_id'",
        names="thing",
        spoil=replace_line("shop.inter", 1, OTHER_COLUMNS),
    ),
    shop_case(
        "item file", "DATA-004", "{data}/shop/shop.item, line 3: 1 fields", spoil=replace_line("shop.item", 3, "i1")
    ),
    line_5("field too few", "u0\ti6\t2", "3 fields"),
    line_5("field too many", "u0\ti6\t2\t1030\t7", "5 fields"),
    line_5("blank line", "", "0 fields"),
    line_5("time no number", "u0\ti6\t2\tyesterday", "timestamp is 'yesterday'"),
    line_5("time missing", "u0\ti6\t2\t", "timestamp is ''"),
    line_5("time NaN", "u0\ti6\t2\tnan", "timestamp is 'nan'"),
    line_5("time infinite", "u0\ti6\t2\tinf", "timestamp is 'inf'"),
    line_5("user missing", "\ti6\t2\t1030", "user_id is empty"),
    line_5("item missing", "u0\t\t2\t1030", "item_id is empty"),
]


@pytest.mark.parametrize("case", [*COMMAND_LINE, *SETTINGS, *BEFORE_TRAINING], ids=lambda case: case.name)
def test_bad_input_is_refused(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the default output folder would be
    monkeypatch.delenv("PREFECT_HOME", raising=False)  # of the server that all tests of flows share
    data = tmp_path / "data"
    write_shop(data / "shop")
    case.spoil(data / "shop")
    before = sorted(tmp_path.rglob("*"))

    start = time.perf_counter()
    code = main(shlex.split(case.words.format(data=data, tmp=tmp_path)))
    seconds = time.perf_counter() - start

    shown = capsys.readouterr()
    for part in (case.received, case.names):
        assert part.format(data=data, tmp=tmp_path) in shown.err
    assert shown.err.endswith(f" [{case.code}]\n")
    assert code == 2
    assert shown.err.count("softgrpo: ") == 1 and len(shown.err) < 4000
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert seconds < LIMIT_SECONDS


@pytest.mark.parametrize(
    "words", ["run ml-100k debug tiny", "pure --do_test", "tune ml-100k debug tiny", "ablate prompt ml-100k debug tiny"]
)
@pytest.mark.parametrize("name", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
def test_servers_that_do_not_answer_are_refused_before_anything_runs(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("softgrpo.pipeline.preflight.preflight", lambda *given: pytest.fail("it came too late"))
    for address, rule in (("http://127.0.0.1:9/api", "No server answers there"), ("rubbish", "It is no URL")):
        monkeypatch.setenv(name, address)
        assert main(shlex.split(words)) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"softgrpo: {name}={address}. {rule}") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_servers_are_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr("softgrpo.flows.runtime.environment.check_answers", lambda address, name: asked.append(address))
    monkeypatch.setattr("softgrpo.flows.runtime.environment._answered", set())
    monkeypatch.setenv("PREFECT_API_URL", "http://one/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://two")
    check_servers()
    prepare(tmp_path)
    assert sorted(asked) == ["http://one/api", "http://two"]


def test_the_good_dataset_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table would prove nothing if its dataset were refused anyway."""
    monkeypatch.chdir(tmp_path)
    write_shop(tmp_path / "data" / "shop")
    ran: list[str] = []

    def run(config: ExperimentConfig, until: str, force: tuple[str, ...], output: Path) -> RunResult:
        ran.append(config.data.dataset)
        return RunResult(None, {}, ())

    monkeypatch.setattr("softgrpo.pipeline.run.run_standalone", run)
    monkeypatch.setattr("softgrpo.flows.runtime.console.make_readable", lambda debug: None)
    assert main(shlex.split(SHOP.format(data=tmp_path / "data"))) == 0
    assert ran == ["shop"]


def test_a_wrong_model_name_does_not_wait_for_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*arguments: object) -> None:
        raise AssertionError("the data were read first")

    monkeypatch.setattr("softgrpo.pipeline.preflight.read_corpus", read)
    config = resolve("ml-100k", "tiny", overrides={"policy.model_name": "./no-such-model"})
    with pytest.raises(PolicyError, match="no such folder"):
        preflight(config)
    with pytest.raises(AssertionError):
        preflight(config, "data")  # needs no model


def test_the_table_is_long_enough() -> None:
    names = [case.name for case in (*COMMAND_LINE, *SETTINGS, *BEFORE_TRAINING)]
    assert len(names) == len(set(names)) >= 30
