"""Search and download of checkpoints: folders, the Hub (a small server on this machine replaces it), and its cache."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from config.settings import LoadSettings
from model.checkpoint.card import read_local_card as read_card
from model.checkpoint.download import hub_files
from model.checkpoint.hub import OFFICIAL_MODEL, DownloadPlan, find_checkpoint
from model.checkpoint.weights_file import find_weights_file, local_weights_file
from model.errors import CheckpointError

REPOSITORY = "someone/tiny"
COMMIT = "c" * 40
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "README.md": b"# Tiny",
    "assets/cat.json": b"{}",
    "config.json": b'{"model_type": "neo_chat"}',
    "model-00001-of-00002.safetensors": b"1" * 4000,
    "model-00002-of-00002.safetensors": b"2" * 3000,
    "model.safetensors.index.json": json.dumps(
        {
            "weight_map": {
                "a": "model-00001-of-00002.safetensors",
                "b": "model-00002-of-00002.safetensors",
            }
        }
    ).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
}
NEEDED = {name for name in FILES if name.startswith(("config", "model", "tokenizer"))}


class Hub:
    """State of the fake Hub: how it misbehaves, and which requests it got."""

    def __init__(self) -> None:
        self.error: tuple[int, str] | None = None
        """HTTP status and X-Error-Code of all responses."""
        self.forbidden: str | None = None
        """Name of a file whose contents are refused."""
        self.commit = COMMIT
        """Commit of the branch `main`."""
        self.listed = 0
        """Number of requests for the list of files."""
        self.sent: list[str] = []
        """Names of the files that were sent."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if state.error is not None:
                return self.answer(state.error[0], b"", {"X-Error-Code": state.error[1]})
            if path == f"/api/models/{REPOSITORY}/revision/main":
                siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
                facts = {"id": REPOSITORY, "sha": state.commit, "siblings": siblings}
                state.listed += 1
                return self.answer(200, json.dumps(facts).encode())
            if path == f"/api/models/{REPOSITORY}/revision/v9":
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            name = path.rpartition("/")[2]
            if not path.startswith(f"/{REPOSITORY}/resolve/") or name not in FILES:
                return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            if self.command == "GET":
                if name == state.forbidden:
                    return self.answer(403, b"")
                state.sent.append(name)
            return self.answer(
                200, FILES[name], {"ETag": f'"{sha1(FILES[name]).hexdigest()}"', "X-Repo-Commit": state.commit}
            )

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_files.cache_clear()
    yield state
    server.shutdown()
    server.server_close()


def refused(model: str | Path, *words: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(str(model))
    for word in words:
        assert word in caught.value.what
    assert caught.value.hint
    return caught.value


# Folders


def test_a_folder_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "SenseNova" / "SenseNova-U1-8B-MoT"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(OFFICIAL_MODEL).resolve() == folder
    assert find_checkpoint(str(folder)) == folder


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no checkpoint folder", str(tmp_path / "nowhere"))
    for path in ("./nowhere", "../nowhere", "~/nowhere", "a/b/c", "a/"):
        refused(path, "no checkpoint folder", path)


def test_missing_folder_with_a_near_miss(tmp_path: Path) -> None:
    (tmp_path / "SenseNova-U1-8B").mkdir()
    assert str(tmp_path / "SenseNova-U1-8B") in refused(tmp_path / "SenseNova-U1-8b").hint


def test_folder_without_config(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "config.json", "it is empty")
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, "notes.txt")


def test_folder_above_the_checkpoint(tmp_path: Path) -> None:
    inner = tmp_path / "models--someone--tiny" / "snapshots" / COMMIT
    inner.mkdir(parents=True)
    (inner / "config.json").touch()
    assert str(inner) in refused(tmp_path / "models--someone--tiny", "config.json").hint


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert str(tmp_path) in refused(tmp_path / "config.json", "is a file").hint


def test_neither_folder_nor_hub_id() -> None:
    assert OFFICIAL_MODEL in refused("u1", "'u1'", "owner/name").hint
    refused("someone/two words")
    refused("~no-such-user-here/model", "cannot be read")
    refused("x" * 5000, "cannot be read")


# Downloading


def test_download(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    plans: list[DownloadPlan] = []
    progress: list[tuple[int, int]] = []

    def on_plan(plan: DownloadPlan) -> None:
        assert not hub.sent, "on_plan is called before the first byte"
        plans.append(plan)

    folder = find_checkpoint(REPOSITORY, on_plan=on_plan, on_progress=lambda *numbers: progress.append(numbers))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: FILES[name] for name in NEEDED}
    size = sum(len(FILES[name]) for name in NEEDED)
    (plan,) = plans
    assert (plan.model, plan.revision, plan.commit) == (REPOSITORY, "main", COMMIT)
    assert plan.bytes_total == plan.bytes_to_fetch == size
    assert {file.name for file in plan.files} == NEEDED
    assert plan.free_disk_bytes > 0
    assert progress[-1] == (size, size)
    assert progress == sorted(progress), "progress never decreases"
    assert capfd.readouterr().err == "", "huggingface_hub draws no progress bars"


def test_the_card_is_fetched_without_the_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    recommended = b'{"settings": {"num_steps": 8}, "trained_sizes": [[64, 64]]}'
    monkeypatch.setitem(FILES, "recommended_settings.json", recommended)
    card = read_card(LoadSettings(model=REPOSITORY))
    assert card.recommended.settings == {"num_steps": 8} and card.model == REPOSITORY
    assert sorted(hub.sent) == ["config.json", "recommended_settings.json"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="not in the cache"):
        find_checkpoint(REPOSITORY)  # a card alone is not a downloaded checkpoint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    find_checkpoint(REPOSITORY)
    assert set(hub.sent) == {*NEEDED, "recommended_settings.json"}
    assert hub.listed == 1


def test_a_card_that_cannot_be_fetched(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="no revision 'v9'"):
        read_card(LoadSettings(model=f"{REPOSITORY}@v9"))
    hub.error = (401, "")
    with pytest.raises(CheckpointError, match="the Hub refuses access"):
        read_card(LoadSettings(model=REPOSITORY))


def test_a_second_call_fetches_nothing(hub: Hub) -> None:
    first = find_checkpoint(REPOSITORY)
    hub.sent.clear()
    second = find_checkpoint(REPOSITORY, on_plan=lambda plan: pytest.fail("there is nothing to plan"))
    assert second == first
    assert hub.sent == []


def test_files_that_a_new_commit_shares_with_the_old_one_are_not_fetched_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_checkpoint(REPOSITORY)
    hub.sent.clear()
    hub.commit = "d" * 40
    monkeypatch.setitem(FILES, "tokenizer.json", b'{"version": "1.1"}')
    hub_files.cache_clear()
    plans: list[DownloadPlan] = []
    folder = find_checkpoint(REPOSITORY, on_plan=plans.append)
    assert plans[0].bytes_to_fetch == len(FILES["tokenizer.json"])
    assert hub.sent == ["tokenizer.json"]
    assert {path.name for path in folder.iterdir()} == NEEDED


def test_a_download_ends_when_progress_raises(hub: Hub) -> None:
    def cancel(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_checkpoint(REPOSITORY, on_progress=cancel)
    assert len(hub.sent) == 1


def test_an_interrupted_download_continues_where_it_stopped(hub: Hub) -> None:
    hub.forbidden = "model-00001-of-00002.safetensors"
    refused(REPOSITORY, "refuses access", "403")
    hub.forbidden = None
    hub.sent.clear()
    plans: list[DownloadPlan] = []
    find_checkpoint(REPOSITORY, on_plan=plans.append)
    assert hub.sent == ["model-00001-of-00002.safetensors"]
    assert plans[0].bytes_to_fetch == 4000
    assert plans[0].bytes_total > 7000


def test_an_incomplete_download_is_not_a_checkpoint(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.forbidden = "model-00001-of-00002.safetensors"
    refused(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(REPOSITORY, "not in the cache")
    refused(f"{REPOSITORY}@{COMMIT}", "incomplete", "model-00001-of-00002.safetensors")


def test_offline_after_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_checkpoint(REPOSITORY)
    hub.error = (500, "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint(REPOSITORY) == folder
    assert find_checkpoint(f"{REPOSITORY}@{COMMIT}") == folder


def test_a_small_disk_is_noticed_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    assert "HF_HOME" in refused(REPOSITORY, "1 kB are free", REPOSITORY).hint
    assert hub.sent == []


def test_a_disk_that_fills_up_during_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    download = huggingface_hub.hf_hub_download

    def full(*args: Any, dry_run: bool = False, **options: Any) -> Any:
        if not dry_run:
            raise OSError(28, "No space left on device")
        return download(*args, dry_run=True, **options)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    refused(REPOSITORY, "the disk was full")


def test_unknown_model(hub: Hub) -> None:
    assert OFFICIAL_MODEL in refused("someone/else", "there is no model someone/else").hint


def test_unknown_revision(hub: Hub) -> None:
    refused(f"{REPOSITORY}@v9", "no revision 'v9'")


def test_gated_model(hub: Hub) -> None:
    hub.error = (403, "GatedRepo")
    hint = refused(REPOSITORY, "gated").hint
    assert f"https://huggingface.co/{REPOSITORY}" in hint and "hf auth login" in hint


def test_refused_login(hub: Hub) -> None:
    hub.error = (403, "")
    assert "hf auth login" in refused(REPOSITORY, "refuses access", "403").hint


def test_a_repository_without_a_checkpoint(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FILES, "config.json")
    refused(REPOSITORY, "not a checkpoint", "config.json")


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the network" in refused(REPOSITORY, REPOSITORY, "could not be fetched").hint


def test_no_network_but_a_copy_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    find_checkpoint(REPOSITORY)
    hub_files.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "HF_HUB_OFFLINE=1" in refused(REPOSITORY, "could not be fetched").hint


# Offline


def run_offline(home: Path, model: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\n"
        "from model.errors import CheckpointError\n"
        "from model.checkpoint.hub import find_checkpoint\n"
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
        "try:\n    print(find_checkpoint(sys.argv[1]))\n"
        "except CheckpointError as error:\n    print(error)\n    sys.exit(3)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", code, model], env=environment, capture_output=True, text=True, check=False
    )


def test_offline_mode_uses_only_a_real_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in NEEDED:
        (snapshot / name).write_bytes(FILES[name])
    found = run_offline(tmp_path, REPOSITORY)
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, str(snapshot), "")

    (snapshot / "model-00002-of-00002.safetensors").unlink()
    incomplete = run_offline(tmp_path, REPOSITORY)
    assert incomplete.returncode == 3
    assert "model-00002-of-00002.safetensors is missing" in incomplete.stdout

    missing = run_offline(tmp_path, OFFICIAL_MODEL)
    assert missing.returncode == 3
    assert "not in the cache" in missing.stdout and "unset HF_HUB_OFFLINE" in missing.stdout


@pytest.mark.parametrize("note", [None, f"{COMMIT}\n", ""])
def test_a_cache_that_was_copied_by_hand(hub: Hub, monkeypatch: pytest.MonkeyPatch, note: str | None) -> None:
    """The note about the branch is missing, or ends in a newline."""
    folder = find_checkpoint(REPOSITORY)
    reference = folder.parents[1] / "refs" / "main"
    reference.parent.mkdir(exist_ok=True)
    reference.unlink(missing_ok=True)
    if note is not None:
        reference.write_text(note)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint(REPOSITORY) == folder


def test_a_copied_cache_with_two_snapshots_is_not_guessed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_checkpoint(REPOSITORY)
    (folder.parents[1] / "refs" / "main").unlink(missing_ok=True)
    shutil.copytree(folder, folder.parent / ("d" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="is not in the cache"):
        find_checkpoint(REPOSITORY)


def test_a_file_of_weights_is_fetched_alone(hub: Hub) -> None:
    """It is announced first, as a whole checkpoint is, and found in the cache afterwards, also offline."""
    name = "model-00001-of-00002.safetensors"
    plans: list[DownloadPlan] = []
    path = find_weights_file(f"{REPOSITORY}/{name}", on_plan=plans.append)
    assert path.read_bytes() == FILES[name] and hub.sent == [name]
    assert [(plan.bytes_to_fetch, plan.bytes_total) for plan in plans] == [(4000, 4000)]
    assert find_weights_file(f"{REPOSITORY}/{name}", on_plan=plans.append) == path and len(plans) == 1
    assert local_weights_file(f"{REPOSITORY}/{name}") == path


def test_a_file_of_weights_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{REPOSITORY}/model-00002-of-00002.safetensors"
    path = find_weights_file(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_weights_file(name) == path
    with pytest.raises(CheckpointError, match=r"other\.gguf of someone/tiny is not in the cache"):
        find_weights_file(f"{REPOSITORY}/other.gguf")
    assert local_weights_file(f"{REPOSITORY}/other.gguf") is None


def test_a_file_that_the_hub_does_not_have(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="has no file") as raised:
        find_weights_file(f"{REPOSITORY}/model-00003-of-00002.safetensors")
    assert "did you mean" in str(raised.value.hint) and hub.sent == []


def test_a_refused_download_of_weights(hub: Hub) -> None:
    def refuse(plan: DownloadPlan) -> None:
        raise CheckpointError("not now")

    with pytest.raises(CheckpointError, match="not now"):
        find_weights_file(f"{REPOSITORY}/model-00001-of-00002.safetensors", on_plan=refuse)
    assert hub.sent == []


def test_a_model_whose_weights_are_elsewhere(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration and tokenizer are fetched, and serve offline; its weights are not."""
    folder = find_checkpoint(REPOSITORY, with_weights=False)
    assert {path.name for path in folder.iterdir()} == {name for name in NEEDED if not name.endswith(".safetensors")}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint(REPOSITORY, with_weights=False) == folder
    with pytest.raises(CheckpointError, match="is incomplete"):
        find_checkpoint(REPOSITORY)
