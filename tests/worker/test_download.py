"""Models of a hub on this machine, through the real huggingface_hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub import Answer, Hub
from huggingface_hub import close_session, constants

from engine import presets
from engine.config import Preset
from engine.download import Request
from engine.download import download as download_alone
from engine.errors import FinetuiError, FitError, MissingError, UsageError
from engine.events import EventTail, EventWriter, Progress, Started
from engine.model_folder import preset_of_config
from engine.state import RunState, fold
from engine.worker import download, lineage, model
from engine.worker.context import StopRequested

from .conftest import MakeContext, MakeRun

REPO = "org/tiny"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
SHARDS = {f"model-0000{n}-of-00003.safetensors": os.urandom(200_000 + n) for n in (1, 2, 3)}
INDEX = {"weight_map": {f"layer.{n}": name for n, name in enumerate(SHARDS)}}
SMALL = {
    "config.json": json.dumps(CONFIG),
    "model.safetensors.index.json": json.dumps(INDEX),
    "tokenizer.json": "{}",
    "tokenizer_config.json": '{"eos_token": "</s>"}',
    "chat_template.jinja": "{{ messages }}",
    "LICENSE": "Do as you like.",
}
BESIDE: dict[str, str | bytes] = {
    "pytorch_model-00001-of-00001.bin": b"pickle",
    "model.fp32.safetensors": b"another copy",
    "consolidated.safetensors": b"another copy",
    "original/params.json": "{}",
    "modeling_tiny.py": "raise SystemExit",
    "README.md": "# Tiny",
}
WHOLE: dict[str, str | bytes] = {**SMALL, **SHARDS}
SIZE = sum(len(data) for data in WHOLE.values())
PRESET = preset_of_config(CONFIG, REPO, "config.json").model_copy(update={"name": "tiny-preset"})


class Told:
    """What a download tells; it is asked to stop once `stop_at` bytes have come."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.progressed: list[tuple[float, float]] = []
        self.findings: list[str] = []
        self.stop_at = float("inf")

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def progress(self, done: float, total: float, unit: str, label: str) -> None:
        assert (unit, label) == ("bytes", "download")
        self.progressed.append((done, total))

    def finding(self, level: str, title: str, detail: str) -> None:
        self.findings.append(f"{level}: {title}: {detail}")

    def check_stop(self) -> None:
        if self.progressed and self.progressed[-1][0] >= self.stop_at:
            raise StopRequested


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model, which this process and its children are led to, with an empty cache."""
    with Hub(tmp_path / "hub") as hub:
        home = tmp_path / "hf"
        for name, value in hub.environment(home).items():
            monkeypatch.setenv(name, value)
        settings = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }
        for name, setting in settings.items():
            monkeypatch.setattr(constants, name, setting)
        monkeypatch.setattr(download, "PAUSES_S", (0.01, 0.01))
        monkeypatch.setattr(download, "CHUNK_BYTES", 4096)
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
        hub.add(REPO, {**WHOLE, **BESIDE}, "models")
        yield hub
    close_session()


def fetch(told: Told | None = None, repo: str = REPO, revision: str = "main", preset: Preset | None = PRESET) -> Path:
    return download.find(told or Told(), repo, revision, preset)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def half_files() -> list[Path]:
    return list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def fetched(hub: Hub) -> list[str]:
    """The files whose bytes were asked for, in order; large ones are fetched from where the hub leads to."""
    return [Path(asked.path).name for asked in hub.downloads() if is_lfs(asked.path) == ("/blobs/" in asked.path)]


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def refused(
    call: Callable[[], object], kind: type[FinetuiError] = MissingError, match: str | None = None
) -> FinetuiError:
    with pytest.raises(kind, match=match) as caught:
        call()
    return caught.value


def hints(error: FinetuiError) -> str:
    return " ".join(error.hints)


# ── what is fetched ──


def test_the_model_arrives_whole_and_nothing_else(hub: Hub) -> None:
    folder = fetch()
    assert names(folder) == sorted(WHOLE)
    assert {name: (folder / name).read_bytes() for name in SHARDS} == SHARDS
    assert folder.name == lineage.commit_of(folder) == hub.commit("models", REPO)
    assert presets.model_folder(PRESET) == folder
    assert presets.is_local(PRESET)


def test_nothing_is_downloaded_twice(hub: Hub) -> None:
    folder = fetch()
    assert sorted(fetched(hub)) == sorted(WHOLE)
    hub.requests.clear()
    assert fetch() == folder
    assert not hub.requests


def test_progress_adds_up(hub: Hub) -> None:
    told = Told()
    fetch(told)
    done = [done for done, _ in told.progressed]
    assert done == sorted(done)
    assert {total for _, total in told.progressed} == {SIZE}
    assert told.progressed[-1] == (SIZE, SIZE)
    assert len(done) > SIZE / download.CHUNK_BYTES


def test_a_stage_tells_it_in_its_events(hub: Hub, make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run()
    context = make_context(run)
    context.plan = context.plan.model_copy(update={"preset": PRESET})
    folder = model.find_base(context)
    events: list[Any] = list(EventTail(run.events).poll())
    assert any(event.kind == "phase" and f"downloading {REPO}: 9 files" in event.text for event in events)
    last = [event for event in events if event.kind == "progress"][-1]
    assert (last.done, last.total, last.unit) == (SIZE, SIZE, "bytes")
    assert lineage.base_of(folder).commit == hub.commit("models", REPO)


def test_the_time_left_follows_from_the_events(hub: Hub, make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run()
    context = make_context(run)
    context.plan = context.plan.model_copy(update={"preset": PRESET})
    hub.bytes_per_s = 300_000
    model.find_base(context)
    events = EventTail(run.events).poll()
    last = max(n for n, event in enumerate(events) if isinstance(event, Progress) and event.done < event.total)
    left = fold(RunState(), [Started(stage="train", pid=1, versions={}), *events[: last + 1]]).stages["train"].left_s
    assert left is not None
    assert 0 < left < 5


def test_an_index_may_name_its_files_as_it_likes(hub: Hub) -> None:
    odd = {"part-one.safetensors": b"1" * 5000, "part-two.safetensors": b"2" * 5000}
    index = json.dumps({"weight_map": {"a": "part-one.safetensors", "b": "part-two.safetensors"}})
    hub.add("org/odd", {**SMALL, **odd, "model.safetensors.index.json": index, "other.safetensors": b"0"}, "models")
    assert set(names(fetch(repo="org/odd", preset=None))) == {*SMALL, *odd}


def test_nobody_is_told_what_is_loaded(hub: Hub) -> None:
    fetch()
    assert all(REPO in asked.path or asked.path.startswith("/blobs/") for asked in hub.requests)


def test_the_cache_is_that_of_hugging_face(hub: Hub) -> None:
    download_alone(Request(model=REPO))
    hub.requests.clear()
    code = f"import huggingface_hub as h; h.snapshot_download({REPO!r}, allow_patterns=['*.json', 'model-*'])"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert not hub.downloads()


# ── it must be the model that the preset says ──


def test_a_preset_with_other_numbers_is_refused_before_the_weights(hub: Hub) -> None:
    shape = PRESET.architecture.model_copy(update={"num_key_value_heads": 4, "vocab_size": 500})
    preset = PRESET.model_copy(update={"architecture": shape})
    error = refused(lambda: fetch(preset=preset), match="tiny-preset .* contradict")
    assert "num_key_value_heads: the preset says 4, config.json says 2" in error.detail
    assert "vocab_size: the preset says 500, config.json says 400" in error.detail
    assert "TOML" in hints(error)
    assert "revision" in hints(error)
    assert fetched(hub) == ["config.json"]


def test_a_model_that_is_here_is_compared_too(hub: Hub) -> None:
    fetch()
    other = PRESET.model_copy(update={"context_length": 512})
    assert "max_position_embeddings" in refused(lambda: fetch(preset=other)).detail


def test_without_a_preset_the_family_must_be_known(hub: Hub) -> None:
    config = json.dumps({**CONFIG, "architectures": ["FalconForCausalLM"], "model_type": "falcon"})
    hub.add("org/falcon", {**WHOLE, "config.json": config}, "models")
    refused(lambda: fetch(repo="org/falcon", preset=None), match="not supported yet")
    config = json.dumps({**CONFIG, "quantization_config": {"bits": 4}})
    hub.add("org/gptq", {**WHOLE, "config.json": config}, "models")
    refused(lambda: fetch(repo="org/gptq", preset=None), UsageError, "quantized already")
    assert fetched(hub) == ["config.json", "config.json"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": "{}", "pytorch_model.bin": b"p"}, "has no safetensors: there is pytorch_model.bin"),
        ({"config.json": "{}", "model.Q4_K_M.gguf": b"g"}, "has no model.safetensors: there is model.Q4_K_M.gguf"),
        ({"adapter_model.safetensors": b"a"}, "has no model.safetensors: there is adapter_model.safetensors"),
        ({"model.safetensors": b"w"}, "has no config.json"),
        ({"model.safetensors": b"w", "config.json": "{}"}, "has no tokenizer.json"),
    ],
)
def test_what_is_no_model_is_refused_by_name(hub: Hub, files: dict[str, str | bytes], words: str) -> None:
    hub.add("org/other", files, "models")
    refused(lambda: fetch(repo="org/other", preset=None), match=words)
    assert not hub.downloads()


# ── room ──


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(hub: Hub) -> None:
    hub.claims["00003.safetensors"] = 10**18
    error = refused(fetch, FitError, "does not fit on the disk")
    assert "to download" in error.detail
    assert constants.HF_HUB_CACHE in error.detail
    assert "HF_HOME" in hints(error)
    assert not hub.downloads()


def test_what_is_here_needs_no_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    last = folder / sorted(SHARDS)[-1]
    last.resolve().unlink()
    last.unlink()
    hub.requests.clear()
    monkeypatch.setattr(download, "free_disk", lambda _: len(SHARDS[last.name]))
    told = Told()
    fetch(told)
    assert set(fetched(hub)) == {last.name}
    assert told.progressed[-1] == (len(SHARDS[last.name]),) * 2


def test_what_killed_downloads_left_is_removed(hub: Hub) -> None:
    blobs = Path(constants.HF_HUB_CACHE) / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    old, fresh = blobs / "abc.0123abcd.incomplete", blobs / "abc.4567abcd.incomplete"
    for path in (old, fresh):
        path.write_text("half")
    os.utime(old, (time.time() - 4000,) * 2)
    fetch()
    assert half_files() == [fresh]


# ── who may have it ──


def test_a_gated_model_without_a_token(hub: Hub) -> None:
    hub.gated[REPO] = "hf_let_me_in"
    error = refused(fetch, match="org/tiny is gated, and there is no token")
    for words in (f"{hub.url}/{REPO}", "hf auth login", "HF_TOKEN", "/settings/tokens"):
        assert words in hints(error)


def test_a_gated_model_with_a_token_that_has_no_access(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated[REPO] = "hf_let_me_in"
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    error = refused(fetch, match="org/tiny is gated, and your token has no access")
    assert f"Accept its terms at {hub.url}/{REPO}" in hints(error)
    monkeypatch.setenv("HF_TOKEN", "hf_let_me_in")
    assert names(fetch()) == sorted(WHOLE)


def test_a_token_of_hf_auth_login_is_used(hub: Hub) -> None:
    hub.gated[REPO] = "hf_from_file"
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True)
    Path(constants.HF_TOKEN_PATH).write_text("hf_from_file")
    assert names(fetch()) == sorted(WHOLE)


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch()
    assert {asked.token for asked in hub.requests if asked.path.startswith("/blobs/")} == {""}
    assert {asked.token for asked in hub.requests if "/api/" in asked.path} == {"hf_secret"}


def test_a_token_that_the_hub_does_not_know(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens = set()
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "hf auth login" in hints(refused(fetch, match="does not accept your token"))


def test_a_model_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(lambda: fetch(repo="org/nothing"), match="The hub has no model org/nothing")
    assert "private" in hints(error)
    hub.private[REPO] = "hf_owner"
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    refused(fetch, match="that your token may see")


def test_a_revision_that_is_not_there(hub: Hub) -> None:
    error = refused(lambda: fetch(revision="v9"), match="org/tiny has no revision v9")
    assert "`revision` in the preset" in hints(error)


def test_a_commit_is_fetched_as_it_was_recorded(hub: Hub) -> None:
    commit = hub.commit("models", REPO)
    assert fetch(revision=commit).name == commit
    refused(lambda: fetch(revision="0" * 40), match="has no revision 000")


# ── a hub that is busy or out of order ──


def test_a_busy_hub_is_waited_for_as_long_as_it_says(hub: Hub) -> None:
    hub.answers += [Answer("/tree/" + hub.commit("models", REPO), 429, {"Retry-After": "1"})]
    hub.answers += [Answer("00002-of-00003.safetensors", 429, {"RateLimit": '"resolvers";r=0;t=1'})]
    told = Told()
    began = time.monotonic()
    assert names(fetch(told)) == sorted(WHOLE)
    assert time.monotonic() - began > 2
    assert sum("the hub asks to wait: going on in 1" in phase for phase in told.phases) == 2


def test_a_busy_hub_is_not_waited_for_all_night(hub: Hub) -> None:
    hub.answers += [Answer("/tree/" + hub.commit("models", REPO), 429, {"Retry-After": "7200"})]
    error = refused(fetch, match="asks to wait 2 h")
    assert "Start again in 2 h" in hints(error)


def test_a_hub_that_stays_busy_is_given_up(hub: Hub) -> None:
    hub.answers += [Answer("config.json", 429, {"Retry-After": "0"})] * 9
    refused(fetch, match="too many requests")


def test_a_hub_that_is_out_of_order(hub: Hub) -> None:
    hub.status = 503
    assert "kept" in hints(refused(fetch, match="The hub is out of order"))


def test_a_file_is_asked_for_again_after_an_error_of_the_hub(hub: Hub) -> None:
    hub.answers += [Answer(sorted(SHARDS)[1], 500)] * 2
    assert names(fetch()) == sorted(WHOLE)


# ── connections that break ──


def test_a_connection_that_breaks_is_continued_where_it_broke(hub: Hub) -> None:
    name = sorted(SHARDS)[0]
    hub.broken[name] = 120_000
    told = Told()
    assert (fetch(told) / name).read_bytes() == SHARDS[name]
    asked = [asked.range for asked in hub.downloads(name) if asked.path.startswith("/blobs/")]
    assert asked[0] == ""
    assert asked[1].startswith("bytes=")
    assert told.progressed[-1] == (SIZE, SIZE)


def test_a_connection_that_stays_broken_says_what_is_kept(hub: Hub) -> None:
    last = sorted(SHARDS)[-1]
    hub.cut[last] = 100_000
    error = refused(fetch, match="The download of org/tiny broke off")
    assert "8 files" in hints(error)
    assert "of 9 files" in hints(error)
    assert not half_files()
    assert presets.is_local(PRESET) is False
    hub.cut.clear()
    hub.requests.clear()
    told = Told()
    fetch(told)
    assert set(fetched(hub)) == {last}
    assert told.progressed[-1] == (len(SHARDS[last]),) * 2


def test_progress_adds_up_when_a_file_begins_anew(hub: Hub) -> None:
    last = sorted(SHARDS)[-1]
    hub.cut[last] = 100_000
    told = Told()

    def mended(text: str) -> None:
        told.phases.append(text)
        if "broke off" in text:
            hub.cut.clear()

    told.phase = mended  # type: ignore[method-assign]
    fetch(told)
    done, total = told.progressed[-1]
    assert done == total
    assert any("the connection broke off: going on in" in phase for phase in told.phases)


@pytest.mark.parametrize("name", [sorted(SHARDS)[0], "tokenizer_config.json"])
def test_a_file_that_arrives_damaged_is_downloaded_again(hub: Hub, name: str) -> None:
    hub.wrong.add(name)
    told = Told()

    def mended(*what: str) -> None:
        told.findings.append(" ".join(what))
        hub.wrong.clear()

    told.finding = mended  # type: ignore[method-assign,assignment]
    folder = fetch(told)
    assert (folder / name).read_bytes() == (hub.root / "models" / REPO / name).read_bytes()
    assert f"{name} arrived damaged" in told.findings[0]
    done, total = told.progressed[-1]
    assert done == total == SIZE + (folder / name).stat().st_size


def test_a_file_that_arrives_damaged_twice_is_refused(hub: Hub) -> None:
    name = sorted(SHARDS)[-1]
    hub.wrong.add(name)
    refused(fetch, match="arrived damaged: .* twice; it was deleted")
    cache = Path(constants.HF_HUB_CACHE)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size == len(SHARDS[name])]


# ── without a network ──


def test_without_a_network_it_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = refused(fetch, match="org/tiny is not on this machine, and the hub cannot be asked")
    assert "connect to the network" in hints(error)
    assert f"hf download {REPO} --local-dir" in hints(error)


def test_offline_what_is_here_is_taken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch() == folder
    assert "unset HF_HUB_OFFLINE" in hints(refused(lambda: fetch(repo="org/other")))
    assert not hub.requests


def test_half_a_snapshot_of_another_program_is_completed(hub: Hub) -> None:
    wanted = ["config.json", "model-*", "*index.json"]
    code = f"import huggingface_hub as h; h.snapshot_download({REPO!r}, allow_patterns={wanted!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    hub.requests.clear()
    assert "tokenizer.json" in names(fetch())
    assert not any(name in SHARDS for name in fetched(hub))


# ── stop, and go on ──


def test_a_stop_leaves_nothing_half_and_the_next_start_goes_on(hub: Hub) -> None:
    told = Told()
    told.stop_at = SIZE - 100_000
    with pytest.raises(StopRequested):
        fetch(told)
    assert not half_files()
    blobs = [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.stat().st_size > 100_000]
    assert len(blobs) in (1, 2)
    hub.requests.clear()
    assert names(fetch()) == sorted(WHOLE)
    assert len([name for name in fetched(hub) if name in SHARDS]) == 3 - len(blobs)


def test_a_wait_can_be_stopped(hub: Hub) -> None:
    hub.answers += [Answer("/tree/" + hub.commit("models", REPO), 429, {"Retry-After": "200"})]
    told = Told()

    def stopping() -> None:
        if any("asks to wait" in phase for phase in told.phases):
            raise StopRequested

    told.check_stop = stopping  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(StopRequested):
        fetch(told)
    assert time.monotonic() - began < 5


def finetui(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "engine.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_downloads_and_says_so(hub: Hub) -> None:
    told = finetui("download", REPO, "--json")
    out, _ = told.communicate(timeout=60)
    assert told.returncode == 0
    result = json.loads(out)
    assert result["model"] == REPO
    assert result["commit"] == hub.commit("models", REPO)
    assert (result["fetched"], result["size_bytes"]) == (True, SIZE)
    assert names(Path(result["path"])) == sorted(WHOLE)
    hub.requests.clear()
    assert presets.find_preset(REPO).architecture == PRESET.architecture
    assert not download_alone(Request(model=REPO)).fetched
    assert not hub.requests


def test_the_variables_of_hugging_face_decide_where_it_lies(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("HF_HUB_CACHE")
    found = Path(download_alone(Request(model=REPO)).path)
    assert found.is_relative_to(tmp_path / "elsewhere" / "hub")
    assert presets.model_folder(PRESET) == found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_can_be_interrupted_and_goes_on(hub: Hub, number: signal.Signals) -> None:
    hub.bytes_per_s = 100_000
    told = finetui("download", REPO)
    deadline = time.monotonic() + 60
    while not half_files() or not is_lfs(hub.requests[-1].path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told.send_signal(number)
    told.communicate(timeout=30)
    assert told.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    while half_files():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hub.bytes_per_s = 0
    hub.requests.clear()
    download_alone(Request(model=REPO))
    assert "tokenizer.json" not in fetched(hub)


def test_a_killed_worker_leaves_nothing_under_a_final_name(
    hub: Hub, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    plan = json.loads(run.plan.read_text())
    run.plan.write_text(json.dumps({**plan, "preset": PRESET.model_dump()}))
    hub.bytes_per_s = 100_000
    EventWriter(run.events).close()
    command = [sys.executable, "-P", "-m", "engine.worker", str(run.path), "train"]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(is_lfs(asked.path) for asked in hub.requests):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    worker.terminate()
    hub.bytes_per_s = 0
    assert worker.wait(60) == 130
    assert EventTail(run.events).poll()[-1].kind == "stopped"
    assert not half_files()
    assert not presets.is_local(PRESET)


def test_a_folder_needs_no_download(hub: Hub, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.cli import main

    assert main(["download", str(tiny_model_dir)]) == 0
    assert "nothing to download" in capsys.readouterr().out
    assert main(["download", "no-such-preset"]) == 2
    assert not hub.requests


def test_the_command_tells_an_error_with_its_code(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.cli import main

    hub.gated[REPO] = "hf_let_me_in"
    assert main(["download", REPO]) == 7
    assert "org/tiny is gated" in capsys.readouterr().err
    shutil.rmtree(hub.root / "models" / REPO)
    assert main(["download", REPO]) == 7
