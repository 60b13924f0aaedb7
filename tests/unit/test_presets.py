"""Presets: every bundled one is sound, and what cannot be meant is told with the file and the key."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from engine import presets
from engine.config import LoraSpec, Preset
from engine.errors import FinetuiError, MissingError, UsageError
from engine.families import FAMILIES, by_architecture
from engine.model_folder import architecture_of, differences, tensor_shapes
from engine.paths import builtin_presets

BUNDLED = sorted(builtin_presets().rglob("*.toml"))
DEMO = builtin_presets() / "demo" / "demo.toml"

PUBLISHED = {
    "demo": 2_623_744,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-2-9b-it": 9_241_705_984,
    "gemma-3-12b-it": 11_766_034_176,
    "gemma-3-1b-it": 999_885_952,
    "gemma-3-4b-it": 3_880_263_168,
    "granite-3.3-2b-instruct": 2_533_539_840,
    "granite-3.3-8b-instruct": 8_170_864_640,
    "llama-2-13b-chat": 13_015_864_320,
    "llama-2-7b-chat": 6_738_415_616,
    "llama-3-8b-instruct": 8_030_261_248,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.2-1b-instruct": 1_235_814_400,
    "llama-3.2-3b-instruct": 3_212_749_824,
    "llama-3.3-70b-instruct": 70_553_706_496,
    "mistral-7b-instruct-v0.2": 7_241_732_096,
    "mistral-7b-instruct-v0.3": 7_248_023_552,
    "mistral-nemo-12b-instruct": 12_247_782_400,
    "mixtral-8x7b-instruct-v0.1": 46_702_792_704,
    "olmo-2-7b-instruct": 7_298_617_344,
    "phi-3.5-mini-instruct": 3_821_079_552,
    "phi-4": 14_659_507_200,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-1.5b-instruct": 1_543_714_304,
    "qwen2.5-14b-instruct": 14_770_033_664,
    "qwen2.5-32b-instruct": 32_763_876_352,
    "qwen2.5-3b-instruct": 3_085_938_688,
    "qwen2.5-7b-instruct": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-1.7b-instruct": 1_711_376_384,
    "smollm2-135m-instruct": 134_515_008,
    "smollm2-360m-instruct": 361_821_120,
    "smollm3-3b": 3_075_098_624,
}
"""Parameters as transformers counts the loaded model (tied embeddings once). The hub's own total, safetensors.total of
its API, says the same for all but those below; each preset names where its figure was read."""

STORED = {
    "gemma-3-12b-it": 12_187_325_040,  # with the part that sees pictures
    "gemma-3-4b-it": 4_300_079_472,
    "llama-2-13b-chat": 13_015_866_880,  # with 64 rotary frequencies a layer
    "llama-2-7b-chat": 6_738_417_664,
    "qwen3-0.6b": 751_632_384,  # with the tied head a second time
    "qwen3-1.7b": 2_031_739_904,
}
"""The hub's total, where its files hold more than the text model."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def user_preset(name: str, text: str) -> Path:
    path = presets.user_presets() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    text = DEMO.read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new)


def test_these_presets_are_bundled() -> None:
    assert len(BUNDLED) == 38
    assert sorted(presets.load_preset(path).name for path in BUNDLED) == sorted(PUBLISHED)


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_the_parameters_follow_from_the_architecture_and_are_the_published_ones(path: Path) -> None:
    preset = presets.load_preset(path)
    assert preset.parameters == FAMILIES[preset.family].parameters(preset.architecture)
    assert preset.parameters == PUBLISHED[preset.name]


@pytest.mark.parametrize("path", [path for path in BUNDLED if path != DEMO], ids=lambda path: path.stem)
def test_the_download_is_two_bytes_for_each_weight_that_the_hub_counts(path: Path) -> None:
    preset = presets.load_preset(path)
    assert preset.download_bytes == 2 * STORED.get(preset.name, PUBLISHED[preset.name])


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_a_preset_says_where_its_numbers_were_read_and_what_its_licence_allows(path: Path) -> None:
    preset = presets.load_preset(path)
    assert "config.json" in path.read_text(encoding="utf-8").split("[architecture]")[0]
    assert "ommercial use" in preset.licence_note
    assert len(preset.good_at) > 20


@pytest.mark.parametrize("path", [path for path in BUNDLED if path != DEMO], ids=lambda path: path.stem)
def test_a_preset_keeps_what_qlora_recommends_but_for_what_it_explains(path: Path) -> None:
    preset = presets.load_preset(path)
    assert (preset.lora, preset.train.lr_scheduler_type, preset.train.warmup_ratio) == (LoraSpec(), "cosine", 0.03)
    assert preset.train.learning_rate == (1e-4 if preset.parameters > 20e9 else 2e-4)
    assert preset.train.micro_batch_size * preset.train.gradient_accumulation_steps == 16


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_a_preset_is_named_as_its_file_and_trains_within_its_context(path: Path) -> None:
    preset = presets.load_preset(path)
    assert preset.name == path.stem
    assert preset.train.max_length <= preset.context_length


LOCAL = [path for path in BUNDLED if Path(presets.load_preset(path).model).is_absolute()]


@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_a_bundled_model_has_the_numbers_that_its_preset_tells(path: Path) -> None:
    preset = presets.load_preset(path)
    folder = Path(preset.model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shapes = tensor_shapes(folder / "model.safetensors")
    assert architecture_of(config, FAMILIES[preset.family]) == preset.architecture
    assert by_architecture(config).name == preset.family
    assert differences(preset, config) == ()
    assert config["max_position_embeddings"] == preset.context_length
    assert sum(math.prod(shape) for shape in shapes.values()) == preset.parameters
    assert (folder / "model.safetensors").stat().st_size == preset.download_bytes


def test_there_is_a_local_preset_to_check() -> None:
    assert [path.stem for path in LOCAL] == ["demo"]


@pytest.mark.parametrize(
    ("name", "rank", "published"),
    [
        ("llama-3.1-8b-instruct", 16, 41_943_040),
        ("qwen3-4b", 16, 33_030_144),
        ("qwen3-8b", 16, 43_646_976),
        ("llama-3.2-1b-instruct", 16, 11_272_192),
        ("mistral-7b-instruct-v0.3", 16, 41_943_040),
    ],
)
def test_the_adapter_has_as_many_weights_as_peft_reports(name: str, rank: int, published: int) -> None:
    preset = presets.find_preset(name)
    assert FAMILIES[preset.family].lora_parameters(preset.architecture, rank) == published


def test_the_smallest_model_comes_first() -> None:
    sizes = [preset.parameters for preset in presets.list_presets()]
    assert sizes == sorted(sizes)
    assert presets.list_presets()[0].name == "demo"


def test_the_demos_paths_are_absolute_and_exist() -> None:
    demo = presets.find_preset("demo")
    assert Path(demo.model).is_absolute()
    assert all(Path(path).is_file() for path in (demo.data.path, demo.data.eval_path))
    assert presets.is_local(demo)


def test_paths_are_relative_to_the_file() -> None:
    path = user_preset("mine/mine.toml", DEMO.read_text(encoding="utf-8"))
    preset = presets.load_preset(path)
    assert preset.model == str(path.parent.resolve() / "model")
    assert preset.data.path == str(path.parent.resolve() / "data" / "train.jsonl")


def test_a_users_preset_replaces_the_bundled_one_of_its_name() -> None:
    user_preset("demo.toml", changed("rank = 16", "rank = 3"))
    assert presets.find_preset("demo").lora.rank == 3
    assert len(presets.list_presets()) == len(BUNDLED)


def test_a_users_broken_file_hides_no_other_preset_and_is_told() -> None:
    path = user_preset("broken.toml", "name = ")
    found, problems = presets.load_all()
    assert len(found) == len(BUNDLED)
    assert str(path) in str(problems[0])
    with pytest.raises(UsageError) as caught:
        presets.find_preset("broken")
    assert any(str(path) in hint for hint in caught.value.hints)


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        presets.find_preset("lama-3.1-8b-instruct")
    assert "llama-3.1-8b-instruct" in caught.value.hints[0]


def test_a_part_of_a_name_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        presets.find_preset("nemo")
    assert "mistral-nemo-12b-instruct" in caught.value.hints[0]


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "\x1b]52;c;aGk=\x07"])
def test_a_name_that_nothing_can_have_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        presets.find_preset(name)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("context_length = 512", "", "context_length: is missing"),
        ("learning_rate = ", "learning_rat = ",
         "train.learning_rat: there is no such key; did you mean learning_rate?"),
        ("hidden_size = 256", "hidden_size = 'big'", "architecture.hidden_size: 'big' should be a valid integer"),
        ("rank = 16", "rank = 0", "lora.rank: 0 should be greater than 0"),
        ("learning_rate = ", "learning_rate = nan  # ", "train.learning_rate: nan should be a finite number"),
        ('quants = ["Q4_K_M", "Q8_0"]', 'quants = ["Q9"]', "export.quants.0: 'Q9' should be"),
        ('family = "llama"', 'family = "camel"', "family: there is no 'camel'"),
        ("[lora]", "[lora", "line"),
    ],
)  # fmt: skip
def test_an_invalid_preset_is_told_with_its_file_and_key(old: str, new: str, said: str) -> None:
    path = user_preset("bad.toml", changed(old, new))
    with pytest.raises(UsageError) as caught:
        presets.load_preset(path)
    assert str(path) in caught.value.detail
    assert said in caught.value.detail


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\0", b"a = " + b"[" * 5000, b""])
def test_bytes_that_are_no_preset_are_a_usage_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        presets.load_preset(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such preset file"):
        presets.find_preset(str(tmp_path / "none.toml"))


# ── overrides ──


@pytest.fixture
def demo() -> Preset:
    return presets.find_preset("demo")


def test_a_setting_is_changed_with_and_without_its_section(demo: Preset) -> None:
    preset = presets.override(demo, {"learning_rate": "1e-4", "lora.rank": "8"})
    assert (preset.train.learning_rate, preset.lora.rank) == (1e-4, 8)


def test_text_becomes_the_type_of_the_setting(demo: Preset) -> None:
    changes = {
        "max_steps": "none",
        "gradient_checkpointing": "true",
        "quants": "q8_0, Q4_K_M,q8_0",
        "quantization": "none",
    }
    preset = presets.override(demo, changes)
    assert preset.train.max_steps is None
    assert preset.train.gradient_checkpointing is True
    assert preset.train.quantization == "none"
    assert preset.export.quants == ("Q8_0", "Q4_K_M")


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", "fast"), ("epochs", "inf"), ("epochs", "nan"), ("rank", "0"), ("quants", ""), ("quants", "Q9"),
     ("gradient_checkpointing", "perhaps"), ("max_length", "9" * 5000), ("train.seed", "none")],
)  # fmt: skip
def test_a_value_that_cannot_be_is_told_with_the_setting(demo: Preset, name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name.partition(".")[2] or name):
        presets.override(demo, {name: value})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("train.lr", "learning_rate"),
        ("accumulation", "gradient_accumulation_steps"),
        ("zzz", "settings: "),
    ],
)
def test_a_setting_that_does_not_exist_is_told_with_near_ones(demo: Preset, name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        presets.override(demo, {name: "1"})
    assert meant.lower() in caught.value.hints[0].lower()


def test_every_setting_goes_through_text_and_back(demo: Preset) -> None:
    changes = {setting.name: setting.value for setting in presets.settings(demo)}
    assert presets.override(demo, changes) == demo


def test_every_setting_has_a_help(demo: Preset) -> None:
    assert [setting.name for setting in presets.settings(demo) if len(setting.help) < 20] == []


def test_no_two_sections_have_a_setting_of_one_name() -> None:
    keys = [key for model in presets.SECTIONS.values() for key in model.model_fields]
    assert len(keys) == len(set(keys))


# ── folders of models ──


def test_a_preset_is_made_from_the_folder_of_a_model(demo: Preset) -> None:
    preset = presets.find_preset(demo.model)
    assert preset.architecture == demo.architecture
    assert (preset.parameters, preset.download_bytes) == (demo.parameters, demo.download_bytes)
    assert preset.train.max_length == 512  # not beyond the model's context


def model_folder(tmp_path: Path, **changes: object) -> Path:
    config = json.loads((Path(presets.find_preset("demo").model) / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return tmp_path


def write_header(path: Path, shapes: dict[str, list[int]]) -> None:
    header = json.dumps(
        {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())


def test_a_tied_head_that_is_stored_anyway_counts_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    write_header(folder / "model.safetensors", {"model.embed_tokens.weight": [10, 4], "lm_head.weight": [10, 4]})
    assert presets.find_preset(str(folder)).parameters == 40


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"quantization_config": {}}, "quantized already"), ({"hidden_size": "wide"}, "hidden_size"),
     ({"num_attention_heads": None}, "num_attention_heads"), ({"max_position_embeddings": [1]}, "config.json")],
)  # fmt: skip
def test_a_model_that_cannot_be_taken_is_told_why(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    folder = model_folder(tmp_path, **changes)
    write_header(folder / "model.safetensors", {"x": [2]})
    with pytest.raises(UsageError, match=said):
        presets.find_preset(str(folder))


def test_another_architecture_is_refused_with_those_that_are_supported(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        presets.find_preset(str(model_folder(tmp_path, architectures=["MambaForCausalLM"])))
    assert "LlamaForCausalLM" in caught.value.hints[0]


@pytest.mark.parametrize("weights", [b"", b"\xff" * 8, struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b"{}"])
def test_damaged_weights_are_told_with_their_file(tmp_path: Path, weights: bytes) -> None:
    folder = model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(FinetuiError, match=r"model\.safetensors"):
        presets.find_preset(str(folder))


def test_a_folder_without_weights_is_missing_them(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not whole"):
        presets.find_preset(str(model_folder(tmp_path)))


# ── what is on this machine ──


def cached(preset: Preset) -> Path:
    repository = presets.hub_cache() / f"models--{preset.model.replace('/', '--')}"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    return snapshot


def test_a_model_in_the_cache_is_local_only_when_every_shard_is_there() -> None:
    preset = presets.find_preset("qwen3-8b")
    assert not presets.is_local(preset)
    snapshot = cached(preset)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (snapshot / "model-1.safetensors").touch()
    assert not presets.is_local(preset)
    (snapshot / "model-2.safetensors").touch()
    assert presets.is_local(preset)


def test_a_hub_model_is_taken_when_its_configuration_is_in_the_cache(demo: Preset) -> None:
    config = (Path(demo.model) / "config.json").read_text(encoding="utf-8")
    named = demo.model_copy(update={"model": "someone/Tiny-Llama"})
    (cached(named) / "config.json").write_text(config, encoding="utf-8")
    preset = presets.find_preset("someone/Tiny-Llama")
    assert (preset.model, preset.name) == ("someone/Tiny-Llama", "tiny-llama")
    assert preset.architecture == demo.architecture
    assert (preset.parameters, preset.download_bytes) == (demo.parameters, 2 * demo.parameters)


def test_a_hub_model_that_is_not_here_is_told_how_to_get_its_configuration() -> None:
    with pytest.raises(UsageError) as caught:
        presets.find_preset("someone/else")
    assert any("hf download someone/else config.json" in hint for hint in caught.value.hints)


def test_a_dangling_link_in_the_cache_is_not_local() -> None:
    preset = presets.find_preset("qwen3-0.6b")
    (cached(preset) / "model.safetensors").symlink_to("../../blobs/gone")
    assert not presets.is_local(preset)
