"""The models of this user: the demo, aliases, published models, those in the Hub cache, and folders that were used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from config.aliases import read_aliases
from config.declarations import DECLARATIONS
from config.errors import SenseNovaError
from config.model_names import ABOUT_GIGABYTES, HUB_IDS, LORAS
from config.sizes import format_size
from model import DEMO_CHECKPOINT, DEMO_MODEL, CachedModel, CheckpointFacts, cached_models, describe_weights, read_facts
from sensenova_cli.models.verified import verified_on

WEIGHTS = (".gguf", ".safetensors")
FAMILY = "sensenova"
"""Part of the Hub ids of this family's repositories, in lower case."""


@dataclass(frozen=True)
class ListedModel:
    """One model, LoRA or file of weights.

    Attributes:
        name: the name to type.
        target: the Hub id or the path behind the name.
        kind: `U1`, `U1.5`, `LoRA` or `weights`, with the number of layers; empty if unknown.
        format: number format of the weights; empty if unknown.
        nbytes: size on the disk; 0 if it is not here.
        about_bytes: size of a published model that is not here; 0 if unknown.
        settings: recommended settings, and the defaults of steps and guidance if there is no recommendation.
        state: `complete`, `incomplete`, `missing` or `built in`.
        verified: the day on which `sensenova verify` has passed; None if it has not.
        is_default: whether commands without `--model` use it.
        path: its folder or file; None if it is not here.
    """

    name: str
    target: str
    kind: str = ""
    format: str = ""
    nbytes: int = 0
    about_bytes: int = 0
    settings: Mapping[str, Any] | None = None
    state: str = "missing"
    verified: str | None = None
    is_default: bool = False
    path: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the model as JSON."""
        return asdict(self)


def list_models(default: str, used: tuple[str, ...] = ()) -> list[ListedModel]:
    """Return all known models: the demo first, then aliases, published models, the Hub cache, and used folders.

    Args:
        default: full name of the model that commands use without `--model`.
        used: names of models that were used, of which folders are listed.
    """
    cached = {each.hub_id: each for each in cached_models()}
    found = [_described(DEMO_MODEL, DEMO_MODEL, DEMO_CHECKPOINT, state="built in")]
    listed = {DEMO_MODEL}
    for name, target in read_aliases().items():
        found.append(_of_target(name, target, cached))
        listed.add(target)
    for name, target in (*HUB_IDS.items(), *LORAS.items()):
        found.append(_of_target(name, target, cached))
        listed |= {target, _repository(target)}
    for hub_id, model in cached.items():
        if hub_id not in listed and _is_ours(model):
            found.append(_of_cache(hub_id, hub_id, model))
    for name in used:
        if name not in listed and Path(name).is_absolute() and (Path(name) / "config.json").is_file():
            found.append(_described(name, name, Path(name)))
            listed.add(name)
    return [replace(each, is_default=each.target == default) for each in found]


def _of_target(name: str, target: str, cached: Mapping[str, CachedModel]) -> ListedModel:
    """Describe what a short name or an alias stands for."""
    if target == DEMO_MODEL:
        return _described(name, target, DEMO_CHECKPOINT)
    about = int(ABOUT_GIGABYTES.get(name, 0) * 1e9)
    kind = "LoRA" if name in LORAS else ""
    path = Path(target).expanduser()
    if path.is_absolute():
        if not path.exists():
            return ListedModel(name, target)
        return _described(name, target, path) if path.is_dir() else _of_file(name, target, path)
    model = cached.get(_repository(target))
    if model is None:
        return ListedModel(name, target, kind=kind, about_bytes=about)
    if target.partition("@")[0] == model.hub_id:
        return _of_cache(name, target, model)
    file = None if model.snapshot is None else model.snapshot / target.removeprefix(f"{model.hub_id}/")
    if file is None or not file.is_file():
        return ListedModel(name, target, kind=kind, about_bytes=about)
    return _of_file(name, target, file, kind=kind)


def _of_cache(name: str, target: str, model: CachedModel) -> ListedModel:
    state = "complete" if model.is_complete else "incomplete"
    if model.snapshot is None or not model.is_checkpoint:
        files = [] if model.snapshot is None else [f for f in model.snapshot.rglob("*") if f.suffix in WEIGHTS]
        is_lora = "lora" in model.hub_id.lower()
        kind = ("LoRA" if is_lora else "weights") if files else ""
        path = None if model.snapshot is None else str(model.snapshot)
        return ListedModel(name, target, kind, nbytes=model.nbytes, state=state, path=path)
    return replace(_described(name, target, model.snapshot, state=state), nbytes=model.nbytes)


def _described(name: str, target: str, folder: Path, state: str = "complete") -> ListedModel:
    """Describe a checkpoint's folder by its small files."""
    try:
        facts = read_facts(folder)
    except SenseNovaError:
        return ListedModel(name, target, state="damaged", path=str(folder))
    defaults = {name: DECLARATIONS[name].default for name in ("num_steps", "cfg_scale")}
    settings = {**defaults, **facts.recommended.settings, "size": format_size(facts.recommended.trained_sizes[0])}
    return ListedModel(
        name,
        target,
        kind=_kind(facts),
        format=_format(facts),
        nbytes=facts.weight_bytes,
        settings=settings,
        state=state,
        verified=verified_on(folder),
        path=str(folder),
    )


def _of_file(name: str, target: str, file: Path, kind: str = "") -> ListedModel:
    size = file.stat().st_size
    if kind == "LoRA" or "lora" in file.name.lower():
        return ListedModel(name, target, "LoRA", nbytes=size, state="complete", path=str(file))
    try:
        stored = describe_weights(file).kind
    except SenseNovaError:
        stored = ""
    return ListedModel(name, target, "weights", stored, size, state="complete", path=str(file))


def _kind(facts: CheckpointFacts) -> str:
    head = "U1.5" if facts.pixel_head == "convolutional" else "U1"
    return f"{head} with experts, {facts.layers} layers" if facts.experts else f"{head}, {facts.layers} layers"


def _format(facts: CheckpointFacts) -> str:
    return facts.quantization or facts.weight_format or ""


def _is_ours(model: CachedModel) -> bool:
    """Return whether a repository belongs to this family: by its name, or because its configuration can be used."""
    if FAMILY in model.hub_id.lower():
        return True
    try:
        return model.snapshot is not None and model.is_checkpoint and bool(read_facts(model.snapshot))
    except SenseNovaError:
        return False


def _repository(target: str) -> str:
    """Return the Hub id of a target, without a revision and without the name of a file."""
    return "/".join(target.partition("@")[0].split("/")[:2])
