"""`sensenova models`: what is on this machine, downloads, removal, the default, and names of the user's own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.aliases import read_aliases
from config.errors import SettingsError
from config.model_names import HUB_IDS, LORAS, full_name
from model import DEMO_CHECKPOINT, DownloadPlan, cached_models, parse_loras
from model.checkpoint.download import PlannedFile
from tests.cli.harness import Program

OFFICIAL = "SenseNova/SenseNova-U1-8B-MoT"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: Program) -> Path:
    """An empty Hub cache, and no configured model."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.delenv("SENSENOVA_MODEL")
    monkeypatch.delenv("COLUMNS")
    return folder


def put(hub: Path, hub_id: str, files: dict[str, bytes], *, partial: bytes = b"") -> Path:
    """Put a model into the Hub cache as its library does: blobs, and links to them in a snapshot."""
    folder = hub / f"models--{hub_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c" * 40)
    for number, (name, content) in enumerate(files.items()):
        (folder / "blobs" / str(number)).write_bytes(content)
        (snapshot / name).symlink_to(folder / "blobs" / str(number))
    if partial:
        (folder / "blobs" / "x.incomplete").write_bytes(partial)
    return folder


def demo_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in DEMO_CHECKPOINT.iterdir()}


def listed(program: Program) -> dict[str, dict[str, Any]]:
    lines = program("models", "list", "--json").stdout.splitlines()
    return {each["name"]: each for each in map(json.loads, lines)}


def test_without_any_download(program: Program, hub: Path) -> None:
    models = listed(program)
    assert list(models) == ["demo", *HUB_IDS, *LORAS]
    demo = models["demo"]
    assert demo["is_default"] and demo["state"] == "built in" and demo["kind"] == "U1.5, 6 layers"
    assert demo["settings"]["num_steps"] == 24 and demo["settings"]["size"] == "256x256"
    assert models["u1-8b"]["state"] == "missing" and models["u1-8b"]["about_bytes"] == 35_000_000_000
    text = program("models", "list").stdout
    assert "about 35 GB" in text and "256x256, 24 steps, cfg 2.5" in text and "not here" in text


def test_the_hub_cache_is_listed(program: Program, hub: Path) -> None:
    files = demo_files()
    put(hub, OFFICIAL, files)
    put(hub, "someone/my-finetune", files, partial=bytes(1000))
    put(hub, "someone/SenseNova-pixel-LoRA", {"pixel.safetensors": b"weights"})
    put(hub, "other/model", {"config.json": b'{"model_type": "bert"}'})
    without_weights = {name: content for name, content in files.items() if not name.startswith("model-00002")}
    put(hub, HUB_IDS["a3b"], without_weights)
    models = listed(program)
    size = sum(map(len, files.values()))
    notes = 40  # the commit of `main`
    assert models["u1-8b"]["state"] == "complete" and models["u1-8b"]["nbytes"] == size + notes
    assert models["someone/my-finetune"]["state"] == "incomplete"
    assert models["someone/my-finetune"]["nbytes"] == size + notes + 1000
    assert models["someone/SenseNova-pixel-LoRA"]["kind"] == "LoRA"
    assert models["a3b"]["state"] == "incomplete"
    assert "other/model" not in models


def test_a_model_without_recommendations_has_the_defaults(program: Program, hub: Path) -> None:
    put(hub, OFFICIAL, {name: content for name, content in demo_files().items() if name != "recommended_settings.json"})
    program("models", "alias", "pinned", f"{OFFICIAL}@main")
    models = listed(program)
    assert models["pinned"]["state"] == models["u1-8b"]["state"] == "complete"
    assert models["u1-8b"]["settings"] == {"num_steps": 50, "cfg_scale": 4.0, "size": "2048x2048"}
    assert "2048x2048, 50 steps, cfg 4" in program("models", "list").stdout


def test_used_folders_and_verified_checkpoints_are_listed(program: Program, hub: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in demo_files().items():
        (folder / name).write_bytes(content)
    program("generate", "a cat", "--model", str(folder))
    assert listed(program)[str(folder)]["verified"] is None
    assert program("verify", "--quick", str(folder)).code == 0
    assert listed(program)[str(folder)]["verified"]
    os.utime(folder / "config.json", (1, 1))
    assert listed(program)[str(folder)]["verified"] is None
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"damaged")
    assert program("verify", "--quick", str(folder)).code == 1
    assert listed(program)[str(folder)]["verified"] is None


def test_removal_says_what_it_frees_and_asks(program: Program, hub: Path) -> None:
    folder = put(hub, OFFICIAL, demo_files())
    program("config", "set", "model", "u1-8b")
    outcome = program("models", "rm", "u1-8b", stdin="n\n")
    assert outcome.code == 1 and folder.exists()
    size = sum(map(len, demo_files().values()))
    assert f"{OFFICIAL}, your default model, is {size // 10**6} MB in {folder}" in outcome.stderr
    assert f"Remove it and free {size // 10**6} MB? [y/N]" in outcome.stderr
    assert program("models", "rm", OFFICIAL).code == 2 and folder.exists()  # no answer
    outcome = program("models", "rm", "-y", "u1-8b")
    assert (outcome.code, outcome.stdout) == (0, f"{OFFICIAL}\n") and "freed" in outcome.stderr
    assert not folder.exists() and list(hub.iterdir()) == []
    assert listed(program)["u1-8b"]["state"] == "missing"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo", "the demo is part of the program"),
        ("u1-8b", "u1-8b is not in the Hub cache"),
        ("someone/else", "someone/else is not in the Hub cache"),
        ("mine", "is a folder or file of yours"),
        ("folder", "is a folder or file of yours"),
    ],
)
def test_what_is_not_removed(program: Program, hub: Path, name: str, message: str) -> None:
    Path("folder").mkdir()
    program("models", "alias", "mine", "./folder")
    outcome = program("models", "rm", "-y", name)
    assert outcome.code == 2 and message in outcome.stderr and Path("folder").exists()


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch, hub: Path) -> Callable[[int], list[str]]:
    """Replaces the Hub by one that has a model of some bytes; returns the names that were asked for."""

    def with_size(size: int) -> list[str]:
        asked: list[str] = []

        def fetch(
            name: str, *, on_plan: Callable[[DownloadPlan], None], on_progress: Callable[[int, int], None]
        ) -> Path:
            asked.append(name)
            if size:
                on_plan(DownloadPlan(name, "main", "c" * 40, (PlannedFile("w", size, False),), hub, 10**12))
                on_progress(size, size)
            return hub / "snapshot"

        monkeypatch.setattr("model.checkpoint.hub.find_checkpoint", fetch)
        monkeypatch.setattr("model.checkpoint.weights_file.find_weights_file", fetch)
        return asked

    return with_size


def test_pull(program: Program, hub: Path, download: Callable[[int], list[str]]) -> None:
    asked = download(20_000_000)
    outcome = program("models", "pull", "u1-8b", "u1-8b-8step", "owner/name@revision")
    assert outcome.code == 0 and asked == [OFFICIAL, LORAS["u1-8b-8step"], "owner/name@revision"]
    assert outcome.stdout == f"{hub / 'snapshot'}\n" * 3
    assert "downloading SenseNova/SenseNova-U1-8B-MoT: 20 MB of 20 MB" in outcome.stderr


def test_a_large_pull_needs_consent(program: Program, download: Callable[[int], list[str]]) -> None:
    download(35_000_000_000)
    outcome = program("models", "pull", "u1-8b")
    assert outcome.code == 3 and "a download of 35.0 GB needs your consent" in outcome.stderr
    assert program("models", "pull", "u1-8b", "--yes").code == 0


def test_a_pull_of_what_is_here(program: Program, download: Callable[[int], list[str]]) -> None:
    download(0)
    assert "u1-8b is already on this machine" in program("models", "pull", "u1-8b").stderr


def test_an_interrupted_pull_says_how_to_go_on(program: Program, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str, **callbacks: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.checkpoint.hub.find_checkpoint", interrupt)
    outcome = program("models", "pull", "u1-8b")
    assert outcome.code == 130 and "to continue the download: sensenova models pull u1-8b" in outcome.stderr


def test_an_unknown_name_is_not_pulled(program: Program, hub: Path) -> None:
    outcome = program("models", "pull", "nonsense")
    assert outcome.code == 3 and "nonsense" in outcome.stderr


def test_default(program: Program, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program("models", "default").stdout == "demo\n"
    outcome = program("models", "default", "u1-8b")
    assert outcome.code == 0 and "not on this machine yet: sensenova models pull u1-8b" in outcome.stderr
    assert program("models", "default").stdout == f"{OFFICIAL}\n"
    folder = Path("model")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert program("models", "default", "./model").code == 0
    assert program("models", "default").stdout == f"{folder.absolute()}\n"
    monkeypatch.setenv("SENSENOVA_MODEL", "demo")
    outcome = program("models", "default", "u1-8b")
    assert outcome.code == 0 and "demo is used here nevertheless" in outcome.stderr
    for wrong in ("nonsense", "./nothing", "."):
        assert program("models", "default", wrong).code == 3
    assert program("config", "get", "model").stdout == f"{OFFICIAL}\n"


def test_an_alias_works_wherever_a_model_is_named(
    program: Program, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert program("models", "alias", "mine", str(checkpoint)).stdout == f"mine = {checkpoint}\n"
    assert program("generate", "a cat", "--model", "mine", "-o", "cat.png").code == 0
    assert program.loaded[-1].model == str(checkpoint)
    assert json.loads(program("info", "cat.png", "--json").stdout)["model"] == str(checkpoint)
    monkeypatch.setenv("SENSENOVA_MODEL", "mine")
    assert program("chat", "hello").code == 0 and program.loaded[-1].model == str(checkpoint)
    monkeypatch.delenv("SENSENOVA_MODEL")
    Path("sensenova.toml").write_text('model = "mine"\n')
    assert program("repl", stdin="a cat\n").code == 0 and program.loaded[-1].model == str(checkpoint)
    program("models", "alias", "small", "demo")
    assert program("repl", stdin="/model small\na cat\n").code == 0 and program.loaded[-1].model == "demo"
    Path("sensenova.toml").unlink()
    assert program("models", "default", "mine").code == 0
    assert program("models", "default").stdout == f"{checkpoint}\n"
    assert listed(program)["mine"]["is_default"]
    assert "U1.5" not in program("info", "small").stderr and program("info", "small").code == 0
    assert program("verify", "--quick", "small").code == 0


def test_aliases_of_loras_and_weights(program: Program, hub: Path, home: Path) -> None:
    Path("style.safetensors").touch()
    program("models", "alias", "pixel", "./style.safetensors")
    program("models", "alias", "hub-style", "owner/loras/style.safetensors")
    target = str(home / "style.safetensors")
    assert [(each.name, each.strength) for each in parse_loras("pixel:0.5, hub-style, x.safetensors")] == [
        (target, 0.5),
        ("owner/loras/style.safetensors", 1),
        ("x.safetensors", 1),
    ]
    assert parse_loras("u1-8b-8step")[0].name == LORAS["u1-8b-8step"]
    from config.settings import LoadSettings

    assert LoadSettings(model="demo", weights="pixel").weights == target


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("demo", "u1-8b"), "demo is the built-in demo"),
        (("u1-8b", "demo"), "u1-8b is the short name of SenseNova/SenseNova-U1-8B-MoT"),
        (("u1-8b-8step", "demo"), "is the short name of"),
        (("here", "demo"), "here is a file or folder here"),
        (("link", "demo"), "link is a file or folder here"),
        (("a/b", "demo"), "'a/b' is not allowed as an alias"),
        (("../x", "demo"), "is not allowed as an alias"),
        (("off", "demo"), "is not allowed as an alias"),
        (("x.safetensors", "demo"), "is not allowed as an alias"),
        (("a b", "demo"), "is not allowed as an alias"),
        (("new", "/nowhere"), "/nowhere is neither a file or folder here nor a Hub id"),
        (("new", "nothing"), "nothing is neither a file or folder here nor a Hub id"),
        (("new",), "there is no alias new"),
        (("--remove", "new"), "there is no alias new"),
    ],
)
def test_wrong_aliases(program: Program, hub: Path, words: tuple[str, ...], message: str) -> None:
    Path("here").mkdir()
    Path("link").symlink_to("nowhere")
    program("models", "alias", "mine", "demo")
    outcome = program("models", "alias", *words)
    assert (outcome.code, outcome.stdout) == (2, "") and message in outcome.stderr
    assert read_aliases() == {"mine": "demo"}


def test_aliases_are_listed_changed_and_removed(program: Program, hub: Path) -> None:
    assert program("models", "alias").stderr == "note: there are no aliases\n"
    program("models", "alias", "a", "u1-8b")
    program("models", "alias", "b", "a")  # what the name means now
    program("models", "alias", "a", "demo")
    assert program("models", "alias").stdout == f"a = demo\nb = {OFFICIAL}\n"
    assert program("models", "alias", "b").stdout == f"{OFFICIAL}\n"
    assert program("models", "alias", "--remove", "a").code == 0
    assert read_aliases() == {"b": OFFICIAL} and full_name("a") == "a"


@pytest.mark.parametrize("content", ["[[", "a = 3\n", 'a = ""\n', "\0", "[a]\nb = 1\n"])
def test_a_damaged_file_of_aliases_is_named(program: Program, hub: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "aliases.toml").write_text(content)
    with pytest.raises(SettingsError, match=r"aliases\.toml"):
        read_aliases()
    outcome = program("generate", "a cat", "--model", "mine")
    assert outcome.code == 2 and "aliases.toml" in outcome.stderr
    assert program("generate", "--help").code == 0


def test_a_cache_that_is_not_there(program: Program, hub: Path) -> None:
    hub.rmdir()
    assert cached_models() == [] and listed(program)["demo"]


def test_no_pytorch_is_imported(tmp_path: Path) -> None:
    from tests.cli.test_imports import imported

    for words in (("models", "list"), ("models", "alias", "mine", "demo"), ("models", "default", "mine")):
        assert "torch" not in imported(tmp_path, *words, HF_HUB_CACHE=str(tmp_path / "hub"))
