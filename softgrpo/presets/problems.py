"""pydantic's validation errors as one readable ConfigError."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from softgrpo.config import ExperimentConfig
from softgrpo.errors import ConfigError, nearest
from softgrpo.presets.settings import settings, shown, value_of

LISTING = "`softgrpo config --settings` lists all settings"


def _owner(location: tuple[int | str, ...]) -> str:
    """Returns the path of the setting that an error's location lies in: `recall.recallers.0` lies in `recall.recallers`."""
    words = [str(part) for part in location]
    known = [".".join(words[:length]) for length in range(len(words), 0, -1)]
    return next((path for path in known if path in settings()), ".".join(words))


def _unknown(path: str, value: object) -> ConfigError:
    """Returns the error of a setting that does not exist."""
    last = path.split(".")[-1]
    same_word = [known for known in settings() if known.split(".")[-1] == last]
    remedy = f"Did you mean '{same_word[0]}'? {LISTING}" if same_word else nearest(path, settings())
    return ConfigError(
        f"Setting '{path}' = {shown(value)}", "There is no setting of that name", remedy, code="CONFIG-060"
    )


def _usual(path: str, usual: ExperimentConfig | None) -> str:
    """Returns a setting's value without the one that is wrong, in words: what dataset and size use, else the default."""
    if usual is None:
        default = settings()[path].default
        return "" if default is None else f" (default {shown(default)})"
    value = value_of(usual, path)
    return "" if value is None else f" (default {shown(value)} for {usual.data.dataset} with size {usual.policy.size})"


def _explain(error: ErrorDetails, usual: ExperimentConfig | None) -> ConfigError:
    """Returns the error of one problem."""
    path = _owner(error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(path, error["input"])
    message = error["msg"].removeprefix("Value error, ")
    if path not in settings():  # a rule on a section or between settings; its message names them and their values
        together = f"The settings of section '{path}'" if path else "The settings"
        return ConfigError(
            f"{together} do not fit together",
            message,
            "Change one of them; `softgrpo config` shows all values",
            code="CONFIG-061",
        )
    setting = settings()[path]
    rule = message.replace("Input should", "The value should")
    remedy = f"Give a value that fits{_usual(path, usual)}. {path}: {setting.description}"
    return ConfigError(f"{path} = {shown(error['input'])}", rule, remedy, code="CONFIG-062")


def as_config_error(error: ValidationError, usual: ExperimentConfig | None = None) -> ConfigError:
    """Returns one error that lists every problem: what was received, the rule, the remedy.

    Args:
        error: What pydantic says.
        usual: The configuration without what is wrong, whose values are quoted; None quotes the defaults.
    """
    problems = [_explain(detail, usual) for detail in error.errors(include_url=False, include_context=False)]
    if len(problems) == 1:
        return problems[0]
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return ConfigError(
        f"{len(problems)} settings are wrong", f"Each has its rule:{lines}", f"\n{LISTING}", code="CONFIG-063"
    )
