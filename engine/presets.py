"""Presets: find, load, override, list. A preset is a TOML file, bundled or the user's own, or a model's folder."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.config import DatasetSpec, ExportSpec, Frozen, LoraSpec, Preset, TrainSpec
from engine.datasets.hub import hub_spec
from engine.errors import FinetuiError, UsageError
from engine.families import FAMILIES
from engine.model_folder import preset_of_config, preset_of_folder, read_config, weights_are_here
from engine.paths import absolute, builtin_presets, user_presets
from engine.text import clean_line

SECTIONS: dict[str, type[Frozen]] = {
    "train": TrainSpec,
    "lora": LoraSpec,
    "export": ExportSpec,
    "data": DatasetSpec,
}
"""The parts of a preset that can be overridden; no two have a field of the same name."""

DATA_FILES = ("path", "eval_path", "gold_path", "mix_path")
"""The settings of the data that name a file."""

ELSEWHERE = {
    "batch_size": "micro_batch_size",
    "lora_alpha": "alpha",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "num_train_epochs": "epochs",
    "r": "rank",
}
"""What other programs call a setting, for the hint after a name that does not exist."""


HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
"""A model's id on the hub: its owner and its name."""


@dataclass(frozen=True)
class Setting:
    """One setting, for the command line's help and the form."""

    name: str
    """With its section: `train.learning_rate`."""
    value: str
    """As `override` takes it."""
    help: str
    choices: tuple[str, ...] = ()
    """The values that there are, if they can be counted."""

    @property
    def key(self) -> str:
        """Without its section: `learning_rate`."""
        return self.name.partition(".")[2]


def list_presets() -> list[Preset]:
    """Every preset that can be read, the smallest model first. A user's preset replaces a bundled one of its name."""
    return load_all()[0]


def load_all() -> tuple[list[Preset], list[FinetuiError]]:
    """The presets, and what is wrong with the user's files that cannot be read. Raises if a bundled one cannot."""
    found = {preset.name: preset for preset in map(load_preset, _files(builtin_presets()))}
    problems: list[FinetuiError] = []
    for path in _files(user_presets()):
        try:
            preset = load_preset(path)
        except FinetuiError as error:
            problems.append(error)
        else:
            found[preset.name] = preset
    return sorted(found.values(), key=lambda preset: (preset.parameters, preset.name)), problems


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.toml"))


def find_preset(name_or_path: str) -> Preset:
    """The preset of that name, of that TOML file, or made from a Hugging Face model: its folder, or its id on the hub.

    An id is taken when the model's `config.json` is in the Hugging Face cache; the weights may come later.
    Raises `UsageError` with near names if there is none, and what is wrong if it cannot be read.
    """
    path = absolute(name_or_path)
    if path.suffix == ".toml":
        return load_preset(path)
    presets, problems = load_all()
    for preset in presets:
        if preset.name == name_or_path:
            return preset
    if _is_dir(path):
        return preset_of_folder(path)
    if HUB_ID.fullmatch(name_or_path) and (folder := _snapshot(name_or_path, "main")):
        return preset_of_config(read_config(folder), name_or_path, str(folder / "config.json"))
    raise _no_such(name_or_path, presets, problems)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _no_such(name: str, presets: list[Preset], problems: list[FinetuiError]) -> UsageError:
    names = [preset.name for preset in presets]
    near = [known for known in names if name and name.lower() in known][:3]
    near = near or difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hints = [f"Did you mean {' or '.join(near)}?"] if near else []
    hints += ["`finetui presets` lists them; the folder of a Hugging Face model is taken as well."]
    if HUB_ID.fullmatch(name):
        hints.append(f"A model of the hub is taken once its configuration is here: hf download {name} config.json")
    hints += [f"Not read: {problem}" for problem in problems]
    return UsageError(f"There is no preset {clean_line(name)!r}", f"none of the {len(names)} is called so", hints)


def load_preset(path: Path) -> Preset:
    """The preset of a TOML file, its relative paths made absolute. Raises `UsageError` naming the file and the key."""
    shown = clean_line(str(path), 400)
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UsageError("There is no such preset file", shown, ("`finetui presets` lists those there are.",)) from None
    except (OSError, ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError("The preset cannot be read", f"{shown}: {clean_line(str(error))}") from error
    try:
        preset = Preset.model_validate(raw)
    except ValidationError as error:
        sentences = [_sentence(detail, Preset) for detail in error.errors()]
        raise UsageError(
            "The preset is not valid",
            f"{shown}: {sentences[0]}",
            [*sentences[1:], "presets/*.toml in the project show every key."],
        ) from None
    if preset.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UsageError(
            "The preset is not valid", f"{shown}: family: there is no {preset.family!r}", (f"Families: {known}",)
        )
    return _absolute(preset, path.absolute().parent)


def _absolute(preset: Preset, folder: Path) -> Preset:
    files = {key: _beside(folder, value) for key in DATA_FILES if (value := getattr(preset.data, key))}
    local = preset.model.startswith(("./", "../", "/", "~"))
    model = str(_resolve(folder, preset.model)) if local else preset.model
    return preset.model_copy(update={"data": preset.data.model_copy(update=files), "model": model})


def _beside(folder: Path, value: str) -> str:
    """A data file by its absolute path; a Hugging Face data set as it is named."""
    path = _resolve(folder, value)
    return value if hub_spec(value) and not path.exists() else str(path)


def _resolve(folder: Path, value: str) -> Path:
    return (folder / Path(value).expanduser()).resolve()


def _sentence(detail: ErrorDetails, model: type[Frozen]) -> str:
    """One pydantic error in plain words, with the key that it is about."""
    place = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "missing":
        return f"{place}: is missing"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(detail["loc"][-1]), _keys(model, detail["loc"][:-1]), n=1)
        return f"{clean_line(place)}: there is no such key" + (f"; did you mean {near[0]}?" if near else "")
    given = clean_line(repr(detail["input"]), 60)
    message = detail["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{clean_line(place)}: {given} {message}"


def _keys(model: type[Frozen], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, Frozen)):
            return []
        model = inner
    return list(model.model_fields)


def override(preset: Preset, changes: Mapping[str, str]) -> Preset:
    """The preset with settings changed; `learning_rate` or `train.learning_rate`, each value as text.

    Lists are written with commas, `none` empties an optional setting. Raises `UsageError` naming the setting.
    """
    for name, text in changes.items():
        section, key = _find_setting(name)
        current: Frozen = getattr(preset, section)
        value = _value(type(current).model_fields[key], text)
        try:
            changed = type(current).model_validate({**current.model_dump(), key: value})
        except ValidationError as error:
            raise _bad_value(section, key, current, error) from None
        preset = preset.model_copy(update={section: changed})
    return preset


def _bad_value(section: str, key: str, current: Frozen, error: ValidationError) -> UsageError:
    field = type(current).model_fields[key]
    hints = [field.description or ""]
    if choices := _choices(field):
        hints.append(f"There are: {', '.join(choices)}.")
    detail = error.errors()[0]
    return UsageError(f"{section}.{key} cannot have this value", _sentence(detail, type(current)), hints)


def _find_setting(name: str) -> tuple[str, str]:
    section, dot, key = name.partition(".")
    sections = [section] if dot else list(SECTIONS)
    key = key if dot else name
    for candidate in sections:
        if candidate in SECTIONS and key in SECTIONS[candidate].model_fields:
            return candidate, key
    bare = [field for model in SECTIONS.values() for field in model.model_fields]
    near = [ELSEWHERE[key]] if key in ELSEWHERE else difflib.get_close_matches(key, bare, n=2)
    near = near or [field for field in bare if key and key in field][:2]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Settings: {', '.join(bare)}."
    raise UsageError(f"There is no setting {clean_line(name)!r}", "", (hint,))


def _value(field: FieldInfo, text: str) -> Any:
    text = text.strip()
    if type(None) in get_args(field.annotation) and text.lower() in ("", "none"):
        return None
    if get_origin(field.annotation) is not tuple:
        return text
    canonical = {choice.lower(): choice for choice in _choices(field)}
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return tuple(dict.fromkeys(canonical.get(part.lower(), part) for part in parts))


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """The values of a literal, or of a tuple of literals."""
    annotation = field.annotation
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return tuple(get_args(annotation)) if get_origin(annotation) is Literal else ()


def settings(preset: Preset) -> list[Setting]:
    """Every setting with its value and its help, those of training first."""
    return list(_settings(preset))


def _settings(preset: Preset) -> Iterator[Setting]:
    for section, model in SECTIONS.items():
        values = getattr(preset, section)
        for key, field in model.model_fields.items():
            text = _text(getattr(values, key))
            yield Setting(f"{section}.{key}", text, field.description or "", _choices(field))


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def is_local(preset: Preset) -> bool:
    """True if the weights are on this machine: in a folder, or whole in the Hugging Face cache."""
    folder = model_folder(preset)
    return folder is not None and weights_are_here(folder)


def model_folder(preset: Preset) -> Path | None:
    """The folder of the model's files: its own, or the snapshot in the Hugging Face cache; None if there is none."""
    if Path(preset.model).is_absolute():
        return Path(preset.model)
    return _snapshot(preset.model, preset.revision)


def _snapshot(model: str, revision: str) -> Path | None:
    repository = hub_cache() / f"models--{model.replace('/', '--')}"
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = revision  # a commit has no ref
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def hub_cache() -> Path:
    """Where Hugging Face keeps what it downloads, by the variables that its own library reads."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(cache) / "huggingface")
    return Path(home).expanduser() / "hub"
