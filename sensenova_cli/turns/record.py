"""The record of a finished picture: the settings and the model that made it."""

from config.settings import ImageSettings, LoadSettings
from model import InterleaveRequest, Picture, format_loras, parse_loras
from sensenova_cli import __version__
from sensenova_cli.outputs.picture_record import AnswerRecord, PictureRecord, recorded_model, recorded_weights
from sensenova_cli.turns.build_request import Turn
from sensenova_cli.turns.model_source import model_name
from sensenova_cli.turns.tasks import AnswerTask, InterleaveTask, PictureTask


def picture_record(picture: Picture, turn: Turn, loaded: LoadSettings) -> PictureRecord | None:
    """Return the record of a picture that `turn` made, or None if the setting `metadata` is off.

    Args:
        loaded: the settings that the model was loaded with. The record stores folders and files as absolute paths.
    """
    if not turn.settings.metadata:
        return None
    record = expected_record(turn, picture.settings, loaded, picture.index, picture.made_by)
    return record.model_copy(update={"think_text": picture.think_text})


def expected_record(
    turn: Turn, settings: ImageSettings, loaded: LoadSettings, index: int = 0, made_by: str = ""
) -> PictureRecord:
    """Return the record of a picture that `turn` will make, without its think text.

    Args:
        settings: those of this picture, with its size in pixels, its seed and one picture.
        loaded: as for `picture_record`.
        index, made_by: as for `Picture`.
    """
    task, request = turn.task, turn.request
    assert not isinstance(task, AnswerTask)
    model = model_name(loaded)
    if not made_by:  # a server's name for its model is not a path here
        model = recorded_model(model)
    lora = format_loras(parse_loras(loaded.lora))
    weights = recorded_weights(loaded.weights_file)
    inputs, answer = task.inputs, None
    if isinstance(task, InterleaveTask):
        assert isinstance(request, InterleaveRequest)
        inputs = (*task.earlier, *inputs)
        answer = AnswerRecord(
            index=index, settings=request.text_settings, system=request.system, history=request.history
        )
    original, author = None, None
    if isinstance(task, PictureTask):
        original, author = task.original_prompt, task.enhanced_by
        if original is None and turn.settings.enhance and not task.keeps_prompt:
            original = turn.prompt  # it will be rewritten before the picture is drawn
    return PictureRecord(
        task=task.kind,
        prompt=task.prompt.text,
        settings=settings,
        loaded=loaded.model_copy(update={"model": model, "weights": weights, "lora": lora}),
        inputs=tuple(each.source for each in inputs),
        answer=answer,
        made_by=made_by or None,
        original_prompt=original,
        enhanced_by=author,
        version=__version__,
    )
