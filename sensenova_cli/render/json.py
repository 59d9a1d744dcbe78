"""Results as JSON for scripts: one object per line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.task_defaults import applying
from model import Answer, AnswerRequest, InterleaveRequest, Picture
from sensenova_cli.render.step_cache import cache_json
from sensenova_cli.render.timings import timings_json
from sensenova_cli.system.unicode import json_text


def picture_result(
    picture: Picture,
    *,
    path: Path,
    task: str,
    prompt: str,
    model: str,
    seconds: float,
    timings: Mapping[str, float] | None = None,
    original_prompt: str | None = None,
) -> dict[str, Any]:
    """Return the object that `--json` prints for a picture.

    Args:
        timings: the seconds of each phase of the run.
        original_prompt: the user's prompt, if a model was asked to rewrite it.
    """
    return {
        "task": task,
        "path": str(path),
        "prompt": prompt,
        **({} if original_prompt is None else {"original_prompt": original_prompt}),
        "seed": picture.settings.seed,
        "size": picture.settings.size,
        "think_text": picture.think_text,
        "model": model,
        "settings": applying(picture.settings.model_dump(mode="json"), task),
        "cache": cache_json(picture.caching) if picture.caching else None,
        "seconds": round(seconds, 3),
        **_timings_field(timings),
    }


def answer_result(
    answer: Answer,
    *,
    task: str,
    request: AnswerRequest,
    images: Sequence[str],
    model: str,
    seconds: float,
    timings: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the object that `--json` prints for an answer; `timings` as for `picture_result`.

    Args:
        images: files of the pictures that the question is about.
    """
    return {
        "task": task,
        "path": images[0] if images else None,
        "images": list(images),
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "finish": answer.finish,
        "prompt": request.prompt,
        "model": model,
        "settings": applying(request.settings.model_dump(mode="json"), task),
        "seconds": round(seconds, 3),
        **_timings_field(timings),
    }


def interleaved_result(
    parts: Sequence[Mapping[str, Any]],
    finish: str | None,
    *,
    request: InterleaveRequest,
    model: str,
    seconds: float,
    timings: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the object that `--json` prints for an interleaved answer; `timings` as for `picture_result`.

    Args:
        parts: texts and pictures in order, as JSON.
        finish: None if the answer was interrupted.
    """
    return {
        "task": "interleave",
        "parts": list(parts),
        "finish": finish,
        "prompt": request.prompt,
        "model": model,
        "settings": applying(
            request.settings.model_dump(mode="json") | request.text_settings.model_dump(mode="json"), "interleave"
        ),
        "system": request.system,
        "seconds": round(seconds, 3),
        **_timings_field(timings),
    }


def _timings_field(timings: Mapping[str, float] | None) -> dict[str, Any]:
    return {} if timings is None else {"timings": timings_json(timings)}


def print_json(result: dict[str, Any]) -> None:
    """Print a result as one line on stdout, and flush it."""
    print(json_text(result), flush=True)
