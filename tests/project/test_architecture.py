"""The layers: deployments -> flows -> tasks -> softgrpo, and who may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("softgrpo", "tasks", "flows", "deployments")
"""Each may import itself and those before it."""
ORCHESTRATORS = {"prefect": ("tasks", "flows", "deployments"), "mlflow": ("tasks/tracking",)}
WINGS = {
    "softgrpo.common": "",
    "softgrpo.errors": "common",
    "softgrpo.reporting": "common",
    "softgrpo.config": "common",
    "softgrpo.data": "common config errors reporting",
    "softgrpo.ranking": "common config errors",
    "softgrpo.algorithm": "errors reporting",
    "softgrpo.recallers": "common errors reporting",
    "softgrpo.policy": "algorithm common config data errors",
    "softgrpo.presets": "common config data errors recallers",
    "softgrpo.baselines": "algorithm common config errors policy ranking reporting",
    "softgrpo.evaluation": "baselines common config errors policy ranking",
    "softgrpo.stages": "algorithm baselines common config data errors evaluation policy ranking recallers reporting",
    "softgrpo.serving": "algorithm baselines common config data errors evaluation policy ranking recallers reporting stages",
    "softgrpo.pipeline": "common config data errors policy presets recallers reporting serving stages",
    "softgrpo.tasks.servers": "",
    "softgrpo.tasks.tracking": "servers",
    "softgrpo.tasks.running": "servers tracking",
    "softgrpo.tasks.stage": "running tracking",
    "softgrpo.tasks.executors": "running servers stage",
    "softgrpo.tasks.pipeline_run": "stage tracking",
    "softgrpo.flows.runtime": "",
    "softgrpo.flows.services": "runtime",
    "softgrpo.flows.form": "",
    "softgrpo.flows.study": "",
    "softgrpo.flows.results": "runtime",
    "softgrpo.flows.pipeline": "form results runtime",
    "softgrpo.flows.variants": "form pipeline results runtime",
    "softgrpo.flows.tune": "form pipeline results runtime study",
    "softgrpo.flows.score": "form results runtime",
    "softgrpo.flows.refit": "form results runtime",
    "softgrpo.flows.start": "pipeline refit results runtime",
    "softgrpo.flows.command": "pipeline results runtime services start tune variants",
    "softgrpo.flows.cli": "command runtime",
}
"""The arrows between the wings of one layer: a wing, and those that it may import. Each comes after all that it imports, so there
is no circle. `softgrpo/__init__.py` is the public face and imports lazily; layers below are open to those above."""
WITH_ALL = Path("benchmarks/orchestration.py")
"""The one part of the benchmark that measures the shells; the others run without their packages."""
AGAINST_RECBOLE = (Path("benchmarks/listing.py"), Path("benchmarks/recbole_evaluation.py"))
MODULES = sorted(path for layer in (*LAYERS, "benchmarks") for path in (ROOT / layer).rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Returns the dotted names that code imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
    return names


def wrong_imports(path: Path, names: set[str]) -> set[str]:
    """Returns those of a module's imports that its place does not allow.

    Args:
        path: The module's path below the repository.
        names: The dotted names it imports.
    """
    layer = path.parts[0]
    above: tuple[str, ...] = (*LAYERS[LAYERS.index(layer) + 1 :], "benchmarks") if layer in LAYERS else LAYERS[1:]
    if path == WITH_ALL:
        above = LAYERS[3:]
    wrong = {name for name in names if name.split(".")[0] in (*above, "tests")}
    for package, places in ORCHESTRATORS.items():
        if not any(path.is_relative_to(place) for place in places) and path != WITH_ALL:
            wrong |= {name for name in names if name.split(".")[0] == package}
    if not path.match("softgrpo/recallers/recbole_*.py") and path not in AGAINST_RECBOLE:
        wrong |= {name for name in names if name.split(".")[0] == "recbole"}
    return wrong


def wing(module: str) -> str:
    """Returns the wing of a module: the first two parts of its name."""
    return ".".join(module.split(".")[:2])


def wrong_arrows(path: Path, names: set[str]) -> set[str]:
    """Returns those of a module's imports that lead to a wing of its layer which its own wing may not import.

    Args:
        path: The module's path below the repository.
        names: The dotted names it imports.
    """
    own = wing(".".join(path.with_suffix("").parts))
    if own not in WINGS:
        return set()
    layer = own.partition(".")[0]
    allowed = {own, *(f"{layer}.{name}" for name in WINGS[own].split())}
    return {name for name in names if name.startswith(f"{layer}.") and wing(name) not in allowed}


def test_every_module_is_in_a_wing_and_no_wing_imports_a_later_one() -> None:
    modules = [path.relative_to(ROOT) for path in MODULES if path.relative_to(ROOT).parts[0] in LAYERS[:3]]
    wings = {
        wing(".".join(path.with_suffix("").parts)) for path in modules if len(path.parts) > 2 or path.stem != "__init__"
    }
    assert wings == set(WINGS)
    before: set[str] = set()
    for name, arrows in WINGS.items():
        assert {f"{name.partition('.')[0]}.{arrow}" for arrow in arrows.split()} <= before, name
        before.add(name)


def test_folders_hold_few_entries() -> None:
    entries = {layer: sum(1 for path in (ROOT / layer).iterdir() if path.name != "__pycache__") for layer in LAYERS[:3]}
    assert entries["softgrpo"] <= 18 and entries["tasks"] <= 8 and entries["flows"] <= 14, entries


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_between_wings_are_on_the_list(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert wrong_arrows(path.relative_to(ROOT), imported(tree)) == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("softgrpo/ranking/fusion.py", "softgrpo.stages.contract"),
        ("softgrpo/algorithm/soft_grpo.py", "softgrpo.config"),
        ("softgrpo/errors.py", "softgrpo.reporting"),
        ("tasks/servers/addresses.py", "softgrpo.tasks.tracking.runs"),
        ("flows/runtime/console.py", "softgrpo.flows.start"),
        ("flows/pipeline.py", "softgrpo.flows.command.flags"),
    ],
)
def test_an_arrow_that_climbs_is_seen(path: str, name: str) -> None:
    assert wrong_arrows(Path(path), {name, "json", "softgrpo.common.text"}) >= {name}


def test_the_algorithm_stands_alone() -> None:
    """With `errors` and `reporting`, where pydantic, recbole, prefect, mlflow and all other wings are absent."""
    modules = sorted(f"softgrpo.algorithm.{path.stem}" for path in (ROOT / "softgrpo/algorithm").glob("[a-z]*.py"))
    code = (
        "import sys\n"
        "for name in ('pydantic', 'recbole', 'prefect', 'mlflow'): sys.modules[name] = None\n"
        f"import {', '.join(modules)}\n"
        "print(*{'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('softgrpo.')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    wings = {"softgrpo.algorithm", "softgrpo.errors", "softgrpo.reporting", "softgrpo.common"}
    assert set(done.stdout.split()) == wings


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert wrong_imports(path.relative_to(ROOT), imported(tree)) == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("softgrpo/algorithm/sft_trainer.py", "softgrpo.tasks.tracking.store"),
        ("softgrpo/pipeline/run.py", "prefect"),
        ("softgrpo/stages/grpo.py", "mlflow.pytorch"),
        ("softgrpo/recallers/registry.py", "recbole.model"),
        ("tasks/tracking/store.py", "softgrpo.flows.start"),
        ("tasks/tracking/store.py", "recbole"),
        ("flows/start.py", "mlflow"),
        ("flows/cli.py", "tests.helpers"),
        ("softgrpo/ranking/rewards.py", "benchmarks.timing"),
        ("benchmarks/steps.py", "softgrpo.tasks.tracking.store"),
        ("benchmarks/steps.py", "mlflow"),
    ],
)
def test_a_wrong_arrow_is_seen(path: str, name: str) -> None:
    assert wrong_imports(Path(path), {name, "json", "softgrpo.config"}) == {name}


def test_an_import_inside_a_function_is_seen() -> None:
    assert imported(ast.parse("def f():\n    from mlflow import log_metric")) == {"mlflow"}


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Returns the calls that could run code from a file."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if given.get("trust_remote_code", "False") != "False":
            found.append(f"{name}(trust_remote_code=...)")
        if name in {
            "pickle.load",
            "pickle.loads",
            "joblib.load",
            "pandas.read_pickle",
            "pd.read_pickle",
            "eval",
            "exec",
        }:
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(name)
        if name in {"np.load", "numpy.load"} and given.get("allow_pickle", "False") != "False":
            found.append(name)
        if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}:
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_from_files(path: Path) -> None:
    assert unsafe_calls(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
    ],
)
def test_an_unsafe_call_is_seen(code: str) -> None:
    assert len(unsafe_calls(ast.parse(code))) == 1


def test_a_safe_call_is_left_alone() -> None:
    assert unsafe_calls(ast.parse("torch.load(path, weights_only=True); model.eval(); yaml.safe_load(text)")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_and_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 300


def loaded_by(module: str) -> tuple[set[str], float]:
    """Returns the top-level packages that importing a module loads in a new process, and the seconds it takes there."""
    code = (
        "import sys, time; start = time.perf_counter();"
        f"import {module};"
        "print(time.perf_counter() - start, *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, *packages = done.stdout.split()
    return set(packages), float(seconds)


def test_importing_softgrpo_is_quick_and_light() -> None:
    packages, seconds = loaded_by("softgrpo")
    assert packages.isdisjoint({"prefect", "mlflow", "recbole", "torch", "transformers"})
    assert seconds < 1.0


def test_the_science_runs_without_orchestrators() -> None:
    packages, _ = loaded_by("softgrpo.pipeline.run")
    assert packages.isdisjoint({"prefect", "mlflow", "recbole", "flows", "tasks"})


def test_a_run_of_which_all_is_stored_loads_neither_torch_nor_plots() -> None:
    packages, _ = loaded_by("softgrpo.flows.pipeline, softgrpo.evaluation.formatting")
    assert packages.isdisjoint({"torch", "matplotlib", "transformers", "recbole"})
