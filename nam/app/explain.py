"""What is wrong with a command line, in one line that names the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from nam.app.config import compose, dotted_keys, group_options
from nam.errors import ConfigError, NamError, first_line, nearest
from nam.folders import configs_folder


def explain(error: Exception, config_name: str, overrides: Iterable[str]) -> str:
    """One line for an error of Hydra, OmegaConf or nam, naming the nearest right key or option."""
    text = str(error)
    if isinstance(error, NamError):
        return text
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_option(error.missing_cfg_file, error.options or ())
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {first_line(error)}"
    if isinstance(error, OSError):
        return f"cannot write the run folder (set run_dir=FOLDER): {text}"
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"'{error.full_key}' is missing: add {error.full_key}=..."
    wrong = re.search(r"Could not override '([^']+)'", text)
    if wrong:
        # What is not there may be inside of the value: prompts={describ: x}
        key = str(getattr(error.__cause__, "full_key", None) or wrong.group(1))
        return f"unknown key {key!r}: {_nearest_key(key, _known_keys(config_name, overrides))}"
    causes = [error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else []
    return ": ".join(map(first_line, [error, *causes]))


def refuse_unknown_keys(cfg: DictConfig, config_name: str) -> None:
    """Raise ConfigError for a key at the top that the command's own files do not have, such as +sed=1.

    Keys further down are held against what they are passed to.
    """
    known = _top_keys(config_name)
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"unknown key {key!r}: {_nearest_key(key, _known_keys(config_name, ()))}")


def refuse_repeats(overrides: Iterable[str]) -> None:
    """Raise ConfigError for a list that names an option twice: Hydra takes the second for the first."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group, value = override.key_or_group, override.value()
        if isinstance(value, list) and group_options(group):
            twice = [str(option) for option in value if value.count(option) > 1]
            if twice:
                raise ConfigError(f"{group}=[{','.join(map(str, value))}] names {twice[0]!r} twice")


def refuse_other_commands(config_name: str, arguments: Iterable[str]) -> None:
    """Raise ConfigError for an experiment whose first comment is the command line of another command."""
    for argument in arguments:
        key, _, names = argument.partition("=")
        for name in names.split(",") if key.lstrip("+") == "experiment" else ():
            path = configs_folder() / "experiment" / f"{name}.yaml"
            made_for = re.search(r"^# (python (\w+)\.py .*)$", _read(path), re.MULTILINE)
            if made_for and made_for.group(2) != config_name:
                raise ConfigError(f"experiment={name} is for another command: {made_for.group(1)}")


def wrong_choice(arguments: Iterable[str]) -> str:
    """One line for a group that is set to something else than names, such as null or a list in a list, where
    Hydra raises an error of Python's; "" when none is."""
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    for override in OverridesParser.create().parse_overrides(given):
        group, value = override.key_or_group, override.value()
        options = group_options(group)
        wrong = _no_name(value) if options else ()
        if wrong:
            word = "null" if wrong[0] is None else wrong[0]
            return f"{group}={word}: no such option; choose from {', '.join(options)}, or leave it out"
    return ""


def wrong_item(config_name: str, arguments: Iterable[str]) -> str:
    """One line for a key inside of a list, such as prompts.x=1, where OmegaConf raises an error of Python's;
    "" when there is none."""
    given = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    cfg = _composed(config_name, given)
    for override in OverridesParser.create().parse_overrides(given):
        parts = str(override.key_or_group).split(".")
        for count in range(1, len(parts)):
            node, key = OmegaConf.select(cfg, ".".join(parts[:count])), ".".join(parts[:count])
            if isinstance(node, ListConfig) and not parts[count].isdigit():
                return f"{key} is a list, which has no {parts[count]!r}: set {key}=[...]"
    return ""


def _no_name(value: Any) -> list[Any]:
    """What of a choice cannot be a name."""
    if isinstance(value, list):
        return [one for one in value if one is None or isinstance(one, (list, dict))]
    return [value] if value is None or isinstance(value, (bool, int, float, dict)) else []


def _missing_option(path: str, options: Iterable[str]) -> str:
    path = path.removesuffix(".yaml")
    group, _, option = path.partition("/")
    if not option:
        commands = [file.stem for file in configs_folder().glob("*.yaml")]
        return f"no primary configuration {path!r}: {nearest(path, commands)}"
    return f"{group}={option}: no such option; {nearest(option, [*options, *group_options(group)])}"


def _top_keys(config_name: str) -> set[str]:
    """The keys at the top of a command's configuration, its groups among them."""
    known: set[str] = set()
    for name in (config_name, "base"):
        file: Any = OmegaConf.load(configs_folder() / f"{name}.yaml")
        groups = [entry for entry in file.get("defaults", ()) if isinstance(entry, DictConfig)]
        known |= {str(key) for node in (file, *groups) for key in node}
    return known - {"defaults", "hydra"}


def _known_keys(config_name: str, overrides: Iterable[str]) -> set[str]:
    """Every dotted key of the composed configuration, and every group of the command."""
    cfg = _composed(config_name, overrides)
    return _top_keys(config_name) | set(dotted_keys(OmegaConf.to_container(cfg, resolve=False)))


def _composed(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """The configuration with the options that the overrides choose, and no other change."""
    top = _top_keys(config_name)
    chosen = [
        override
        for override in overrides
        if (parts := override.partition("="))[0] in top and parts[2] in group_options(parts[0])
    ]
    try:
        return compose(config_name, chosen, with_hydra=True)
    except HydraException:
        return compose(config_name, [], with_hydra=True)


def _nearest_key(key: str, known: set[str]) -> str:
    """The same name elsewhere, else the closest one under the same parent."""
    parent, _, name = key.rpartition(".")
    same = {other for other in known if other.rpartition(".")[2] == name and not other.startswith("hydra.")}
    beside = {other for other in known if other.rpartition(".")[0] == parent}
    top = {other for other in known if "." not in other and other != "hydra"}
    if len(same) == 1:
        return f"did you mean {same.pop()!r}?"
    return nearest(key, same or (beside if parent else top) or top)


def _read(path: Any) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
