"""Bad input is refused before any training: exit code 2, one message with what was received, the rule and the remedy.

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

from flows.cli import main
from flows.runtime.environment import check_servers, prepare
from softgrpo.config import ExperimentConfig
from softgrpo.errors import PolicyError
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
        received: What the message must quote of the input.
        rule: What it must say of the rule.
        remedy: What it must say of the remedy.
        spoil: Changes the good dataset `shop` in the data folder before the command.
    """

    name: str
    words: str
    received: str
    rule: str
    remedy: str
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
    Case("command", "rum ml-100k full tiny", "'rum'", "no such command", "'run'"),
    Case("no command", "", "COMMAND", "known: run, standalone", "--help"),
    Case("missing words", "run ml-100k", "STAGE, SIZE", "softgrpo run DATASET STAGE SIZE", "--help"),
    Case("word too many", f"{RUN} now", "'now'", "Nothing is expected", "quotes"),
    Case("stage", "run ml-100k ful tiny", "'ful'", "no such stage", "'full'"),
    Case("size", "run ml-100k full tinny", "'tinny'", "no preset of that size", "'tiny'"),
    Case("size as a flag", f"{RUN} --size huge", "'huge'", "no preset of that size", "large, mini, small, tiny"),
    Case("flag", f"{RUN} --topp 0.5", "'--topp'", "no such flag", "'--top_p'"),
    Case(
        "another command's flag",
        "ablate prompt ml-100k debug tiny --force sft",
        "'--force'",
        "`softgrpo ablate` has no",
        "It is a flag of `softgrpo run`, `softgrpo standalone`, `softgrpo pure`",
    ),
    Case(
        "a flag of run",
        "standalone --parallel 2",
        "'--parallel'",
        "`softgrpo standalone` has no",
        "It is a flag of `softgrpo run`",
    ),
    Case(
        "a setting of a run",
        "report RUN --top_p 0.5",
        "'--top_p'",
        "`softgrpo report` has no",
        "It is a flag of `softgrpo run`",
    ),
    Case(
        "a flag of tune", "run ml-100k full tiny --trials 3", "'--trials'", "`softgrpo run` has", "of `softgrpo tune`."
    ),
    Case("setting", f"{RUN} --grpo.tau_gumble 0.5", "'--grpo.tau_gumble'", "no such flag", "'--grpo.tau_gumbel'"),
    Case("flag without value", f"{RUN} --top_p", "--top_p", "expected one argument", "--flag=VALUE"),
    Case("pure without stage", "pure --dataset ml-1m", "No stage", "--do_sft", "--do_test"),
    Case("output empty", f"{RUN} --output ''", "--output: ''", "no folder", "is the working directory"),
    Case("flag before", "run --force sft ml-100k full tiny", "STAGE", "run DATASET STAGE SIZE", "Flags go behind"),
    Case("word behind a switch", f"{RUN} --bf16 maybe", "--bf16 maybe", "true, false or nothing", "Correct it"),
    Case(
        "switch in the middle", f"{RUN} --prompt.titles no --seed 7", "--prompt.titles no", "It is a switch", "Correct"
    ),
    Case("help as a word", "help", "'help'", "`softgrpo --help`", "Known: ablate"),
    Case("cluster of one process", f"{RUN} --dask tcp://h:1", "--parallel or --dask", "is one process", "stage full"),
    Case(
        "damaged database",
        "run ml-100k full tiny --output {data}/shop",
        "{data}/shop/mlflow.db",
        "record of all runs",
        "another folder with --output",
        content("mlflow.db", b"garbage"),
    ),
    Case(
        "damaged database to read",
        "runs --output {data}/shop",
        "{data}/shop/mlflow.db",
        "record of all runs",
        "another folder with --output",
        content("mlflow.db", b"garbage"),
    ),
    Case(
        "database with damaged pages",
        "run ml-100k full tiny --output {data}/shop",
        "{data}/shop/mlflow.db' is damaged: ",
        "record of all runs",
        "Put its backup there",
        damaged("mlflow.db"),
    ),
    Case(
        "database with damaged pages to read",
        "runs --output {data}/shop",
        "{data}/shop/mlflow.db' is damaged: ",
        "record of all runs",
        "Put its backup there",
        damaged("mlflow.db"),
    ),
    Case(
        "Prefect's database with damaged pages",
        "run ml-100k full tiny --output {data}/shop",
        "{data}/shop/prefect/prefect.db' is damaged: ",
        "history of runs",
        "a new one is made",
        damaged("prefect/prefect.db"),
    ),
    Case("long command", LONG, "characters ...]nnn", "no such command", "Known: ablate"),
    Case("long dataset", f"run {LONG} standalone tiny", "characters ...]nnn", "atomic files", "--data-path"),
    Case("long flag", f"{RUN} --{LONG} 1", "characters ...]nnn", "has no such flag", "names are known"),
    Case("long stage", f"{RUN} --force {LONG}", "characters ...]nnn", "no such stage", "Known: "),
    Case("long path", f"{RUN} --output /{LONG}", "File name too long", "characters ...]nnn", "Mend it"),
    Case(
        "stages is a file",
        f"{RUN} --output {{data}}/shop",
        "{data}/shop/stages",
        "Finished stages",
        "another --output",
        content("stages", b""),
    ),
    Case("force", f"{RUN} --force sfft", "'sfft'", "no such stage", "'sft'"),
    Case(
        "output is a file",
        f"{RUN} --output {{data}}/shop/shop.inter",
        "shop.inter",
        "must be a folder",
        "another folder",
    ),
    Case(
        "output in a file",
        f"{RUN} --output {{data}}/shop/shop.inter/x",
        "shop.inter/x",
        "must be a folder",
        "another folder",
    ),
    Case("output nowhere", f"{RUN} --output /proc/x", "/proc/x", "takes new files", "another folder"),
    Case(
        "output of a group", "tune ml-100k full tiny --output /proc/x", "/proc/x", "takes new files", "another folder"
    ),
    Case("report of nothing", "report 0123abcd", "--output outputs", "No run is stored there", "MLFLOW_TRACKING_URI"),
    Case("list of nothing", "recommend 0123abcd", "--output outputs", "No run is stored there", "wrote to"),
    Case("nothing to compare", "compare 0123abcd 0123abce", "--output outputs", "No run is stored there", "wrote to"),
    Case(
        "run from nothing",
        "run ml-100k grpo tiny --from-run 0123abcd --output {tmp}/typo",
        "--output {tmp}/typo",
        "No run is stored there",
        "wrote to",
    ),
    Case("empty list", "recommend 0123abcd --k 0", "--k 0", "at least one item", "larger"),
    Case("no such format", "recommend 0123abcd --to x.csv", "'x.csv'", ".parquet or .json", "such a name"),
    Case("list nowhere", "recommend 0123abcd --to /proc/x/y.json", "--to /proc/x", "takes new files", "another folder"),
    Case(
        "list in the place of a folder", "recommend 0123abcd --to data/", "'data'", ".parquet or .json", "such a name"
    ),
    Case(
        "windows in the place of a file",
        "windows shop --data-path {data} --to {data}/shop/shop.inter",
        "--to {data}/shop/shop.inter",
        "takes new files",
        "another folder",
    ),
    Case("windows nowhere", "windows shop --data-path {data} --to /proc/x", "--to /proc/x", "takes", "another folder"),
    Case("report nowhere", "report 0123abcd --to /proc/x", "--to /proc/x", "takes new files", "another folder"),
]

SETTINGS = [
    Case(
        "name of a recaller",
        f"{RUN} --recall.files.mine x.parquet",
        "recall.files = mine",
        "begins with a capital letter",
        "Give a value that fits",
    ),
    Case("tau zero", f"{RUN} --tau_gumbel 0", "grpo.tau_gumbel = 0", "greater than 0", "default 1"),
    Case("tau negative", f"{RUN} --tau-gumbel=-1", "grpo.tau_gumbel = -1", "greater than 0", "default 1"),
    Case("tau infinite", f"{RUN} --tau-gumbel inf", "grpo.tau_gumbel = inf", "finite number", "default 1"),
    Case("top-p zero", f"{RUN} --top_p 0", "grpo.top_p = 0", "greater than 0", "default 1 for ml-100k with size tiny"),
    Case("top-p above one", f"{RUN} --top_p 1.01", "grpo.top_p = 1.01", "less than or equal to 1", "default 1 for"),
    Case("top-p no number", f"{RUN} --top_p most", "grpo.top_p = most", "valid number", "default 1 for"),
    Case(
        "one sample",
        f"{RUN} --num_generations 1",
        "grpo.num_generations = 1",
        "greater than or equal to 2",
        "default 64 for ml-100k with size tiny",
    ),
    Case(
        "half a sample", f"{RUN} --num_generations 2.5", "grpo.num_generations = 2.5", "valid integer", "default 64 for"
    ),
    Case("epsilon", f"{RUN} --epsilon=-0.2", "grpo.epsilon = -0.2", "greater than or equal to 0", "default 0.2"),
    Case("beta", f"{RUN} --beta=-0.1", "grpo.beta = -0.1", "greater than or equal to 0", "default 0.01"),
    Case("learning rate", f"{RUN} --learning_rate 0", "sft.learning_rate = 0", "greater than 0", "default 5e-05"),
    Case("learning rate NaN", f"{RUN} --grpo_lr nan", "grpo.learning_rate = nan", "should be", "default 2e-05 for"),
    Case(
        "epochs",
        f"{RUN} --num_train_epochs=-1",
        "sft.num_train_epochs = -1",
        "greater than or equal to 0",
        "default 1 for",
    ),
    Case(
        "batch",
        f"{RUN} --per_device_train_batch_size 0",
        "train_batch_size = 0",
        "greater than or equal to 1",
        "default 16",
    ),
    Case("seed", f"{RUN} --seed x", "seed = x", "valid integer", "default 42"),
    Case("switch", f"{RUN} --bf16=maybe", "train.bf16 = maybe", "valid boolean", "default false"),
    Case("choice", f"{RUN} --train.device tpu", "train.device = tpu", "'auto', 'cpu' or 'cuda'", "default auto"),
    Case("two at once", f"{RUN} --top_p 2 --seed=-1", "grpo.top_p = 2", "seed = -1", "default 42"),
    Case("pool of one", f"{RUN} --recbole_models BPR", "holds 1", "at least two recallers", "Change"),
    Case("empty pool", f"{RUN} --recbole_models", "holds 0", "at least two recallers", "Change"),
    Case("recaller twice", f"{RUN} --recbole_models BPR BPR", "BPR, BPR", "each recaller once", "Drop"),
    Case("depth", f"{RUN} --recall.depth 20", "recall.depth = 20", "cut-off of 50", "Change"),
    Case("shares", f"{RUN} --split.recaller 0.8", "= 1.1", "a share for test", "Change"),
    Case("record", f"{RUN} --split.record 0.7", "record = 0.7", "smaller than recaller", "Change"),
    Case("stranger", f"{RUN} --recall.settings.EASE.reg_weight 1", "EASE", "not in recall.recallers", "Change"),
    Case("mapping", f"{RUN} --recall.settings '{{{{a: ['", "{{a: [", "must be YAML", "Correct"),
    Case(
        "below a mapping",
        f"{RUN} --recall.settings.SASRec.epochs '{{{{a: ['",
        "--recall.settings.SASRec.epochs: {{a: [",
        "must be YAML",
        "--help",
    ),
    Case("deep value", f"{RUN} --recall.settings.BPR.x {LEVELS}", "x: [[[[", "nested deeper", "--help"),
    Case(
        "value that holds itself",
        f"{RUN} --recall.settings '&a [*a]'",
        "&a [*a]",
        "an anchor or an alias",
        "Correct it",
    ),
    Case("value with aliases", f"{RUN} --recall.settings '{BOMB}'", "&b [*a", "an anchor or an alias", "Correct it"),
    Case("long value", f"{RUN} --recall.settings.BPR.x {LONG}", "characters ...]", "200,000 characters", "--help"),
    Case("long number", f"{RUN} --recall.settings.BPR.x 0x{'f' * 999}", "of 3996 bits", "64 bits", "Correct it"),
    Case("value with a tag", f"{RUN} --recall.settings.BPR.x '!!float '", "!!float", "it has a tag", "--help"),
    Case("no such date", f"{RUN} --recall.settings.BPR.epochs 2020-13-45", "2020-13-45", "must be YAML", "--help"),
]

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
OTHER_COLUMNS = "user_id:token\tproduct_id:token\trating:float\ttimestamp:float"
UNTYPED = "user_id\titem_id\trating\ttimestamp"


def shop_case(name: str, received: str, rule: str, remedy: str, spoil: Callable[[Path], object]) -> Case:
    """Returns a case of a spoilt dataset."""
    return Case(name, SHOP, received, rule, remedy, spoil)


def line_5(name: str, text: str, received: str, rule: str) -> Case:
    """Returns a case in which line 5 of `shop.inter` is another one; the message names file and line."""
    spoil = replace_line("shop.inter", 5, text)
    return Case(name, SHOP, f"{{data}}/shop/shop.inter, line 5: {received}", rule, "Correct the line", spoil)


BEFORE_TRAINING = [
    Case("dataset", "run ml-100kk standalone tiny", "'ml-100kk'", "data path", "Did you mean 'ml-100k'"),
    Case("no data path", "run shop standalone tiny --data-path {tmp}/none", "{tmp}/none is not", "a folder", "make it"),
    Case(
        "data path is a file",
        "run shop standalone tiny --data-path {data}/shop/shop.inter",
        "is a file",
        "a folder",
        "above",
    ),
    shop_case("dataset is a folder", "'shop'", "download", "--data-path", folder_for_file),
    Case("recaller", f"{RUN} --recbole_models BPR SASRek", "'SASRek'", "RecBole model", "'SASRec'"),
    Case(
        "file of a recaller",
        f"{RUN} --recall.files.Mine {{tmp}}/mine.parquet",
        "{tmp}/mine.parquet (recaller Mine)",
        "There is no such file",
        "Correct recall.files",
    ),
    Case(
        "recaller setting", f"{RUN} --recall.settings.BPR.embeding_size 8", "'embeding_size'", "BPR", "'embedding_size'"
    ),
    Case("recaller epochs", f"{RUN} --recall.settings.BPR.epochs 0", "epochs = 0", "at least 1", "default"),
    Case("recaller size", f"{RUN} --recall.settings.BPR.embedding_size 0", "size = 0", "at least 1", "default is 64"),
    Case("hub model", f"{RUN} --model_name nobody/no-such-model", "'nobody/no-such-model'", "hub", "--model_name"),
    Case("model folder", f"{RUN} --model_name {{tmp}}/model", "'{tmp}/model'", "no such folder", "--model_name"),
    Case(
        "model file", f"{RUN} --model_name {{tmp}}/m.gguf", "'{tmp}/m.gguf'", "no such folder or file", "--model_name"
    ),
    Case("model of nobody", f"{RUN} --model_name ~nosuchuser/x", "'~nosuchuser/x'", "no such folder", "--model_name"),
    Case(
        "clipping",
        f"{RUN} --recall.settings.BPR.clip_grad_norm '{{{{maxnorm: 5}}}}'",
        "clip_grad_norm = {{'maxnorm': 5}}",
        "max_norm, norm_type",
        "default is None",
    ),
    Case(
        "model package", f"{RUN} --model_name package:no_such/model", "package:no_such", "not installed", "pip install"
    ),
    Case("no model in the folder", f"{RUN} --model_name {{data}}", "'{data}'", "safetensors", "--model_name"),
    Case("column named wrongly", f"{SHOP} --data.item_field item", "'item'", "data.item_field", "'item_id'"),
    Case("title column", f"{SHOP} --data.title_field name", "'name'", "data.title_field", "genres, item_id, title"),
    Case(
        "rating column",
        f"{SHOP} --data.min_rating 3 --data.rating_field stars",
        "'stars'",
        "data.rating_field",
        "rating",
    ),
    Case(
        "no rating column",
        f"{SHOP} --data.min_rating 3 --data.rating_field null",
        "data.min_rating",
        "ratings",
        "Set both",
    ),
    Case("ratings too low", f"{SHOP} --data.min_rating 9", "'shop'", "A user needs 4", "data.min_rating"),
    Case("core too large", f"{SHOP} --data.k_core 50", "'shop'", "50-core", "Lower data.k_core"),
    shop_case("short histories", "'shop'", "A user needs 4 distinct items", "data.min_user_items", short_histories),
    shop_case("empty file", "shop.inter", "the file is empty", "Correct", content("shop.inter", b"")),
    shop_case("no text", "shop.inter", "is not UTF-8", "Correct", content("shop.inter", b"\xff\xfe\x00\x01\n" * 9)),
    shop_case("header only", "line 2", "no row below the header", "Correct", content("shop.inter", HEADER.encode())),
    shop_case("header without types", "line 1: ", "name:type", "Correct", replace_line("shop.inter", 1, UNTYPED)),
    shop_case(
        "column missing", "'item_id'", "data.item_field", "product_id", replace_line("shop.inter", 1, OTHER_COLUMNS)
    ),
    shop_case(
        "item file", "{data}/shop/shop.item, line 3", "header has 3", "Correct", replace_line("shop.item", 3, "i1")
    ),
    line_5("field too few", "u0\ti6\t2", "3 fields", "the header has 4"),
    line_5("field too many", "u0\ti6\t2\t1030\t7", "5 fields", "the header has 4"),
    line_5("blank line", "", "0 fields", "the header has 4"),
    line_5("time no number", "u0\ti6\t2\tyesterday", "timestamp is 'yesterday'", "must be a finite number"),
    line_5("time missing", "u0\ti6\t2\t", "timestamp is ''", "must be a finite number"),
    line_5("time NaN", "u0\ti6\t2\tnan", "timestamp is 'nan'", "must be a finite number"),
    line_5("time infinite", "u0\ti6\t2\tinf", "timestamp is 'inf'", "must be a finite number"),
    line_5("user missing", "\ti6\t2\t1030", "user_id is empty", "Every row needs a user_id"),
    line_5("item missing", "u0\t\t2\t1030", "item_id is empty", "Every row needs a item_id"),
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
    for part in (case.received, case.rule, case.remedy):
        assert part
        assert part.format(data=data, tmp=tmp_path) in shown.err
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
    monkeypatch.setattr("flows.runtime.environment.check_answers", lambda address, name: asked.append(address))
    monkeypatch.setattr("flows.runtime.environment._answered", set())
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
    monkeypatch.setattr("flows.runtime.console.make_readable", lambda debug: None)
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
