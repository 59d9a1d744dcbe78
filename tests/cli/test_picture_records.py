"""Records in PNG files: written, read back, and refused if they are damaged."""

import io
import json
import struct
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from config.later_settings import LATER_SETTINGS
from config.settings import ImageSettings
from model.errors import PictureError
from sensenova_cli.outputs.picture_files import KEYWORD, png_info, read_record
from sensenova_cli.outputs.picture_record import FORMAT, InputFile, PictureRecord, parse_record, record_text

RECORD = PictureRecord(
    task="edit",
    prompt="一只可爱的猫 🐈, café\nwith a second line",
    settings=ImageSettings(size="96x64", seed=7, num_steps=4, cfg_scale=1 / 3, cfg_interval=(0.1, 0.9)),
    model="SenseNova/SenseNova-U1-8B-MoT",
    dtype="bfloat16",
    inputs=(InputFile(path="in/cat.png", sha256="ab" * 32),),
    think_text="First the sky.\n\nThen the cat.",
    version="0.1.0",
)


CASES = Path(__file__).parents[1] / "data" / "cases"


def test_a_record_names_only_settings_that_have_an_effect() -> None:
    """Older records have the others, too; they are equal to new ones."""
    for task, absent in (("generate", {"img_cfg_scale", "input_pixels"}), ("edit", set())):
        record = PictureRecord.model_validate({**RECORD.model_dump(), "task": task})
        content = json.loads(record_text(record))
        assert content["settings"].keys() == ImageSettings.model_fields.keys() - absent - {*LATER_SETTINGS}
        content["settings"] |= {"img_cfg_scale": 1.0, "input_pixels": "auto"}
        assert parse_record(json.dumps(content), "old.png") == record


def changed_record(**changes: object) -> PictureRecord:
    return PictureRecord.model_validate({**RECORD.model_dump(), **changes})


def saved(record: PictureRecord | None = RECORD) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (96, 64), "teal")
    image.save(buffer, "PNG", pnginfo=png_info(record) if record else None)
    return buffer.getvalue()


def with_chunk(text: str) -> bytes:
    chunks = PngInfo()
    chunks.add_itxt(KEYWORD, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def changed(**changes: object) -> bytes:
    return with_chunk(json.dumps({"format": FORMAT, **RECORD.model_dump(mode="json"), **changes}))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(saved())
    assert read_record(path) == RECORD
    assert read_record(saved(), "standard input") == RECORD


def test_the_same_record_gives_the_same_bytes() -> None:
    again = read_record(saved())
    assert saved(again) == saved()


def test_numbers_survive_exactly() -> None:
    record = read_record(saved())
    assert record is not None
    assert record.settings.cfg_scale == 1 / 3
    assert record.settings.cfg_interval == (0.1, 0.9)


def test_long_think_text() -> None:
    """The text is longer than Pillow's limit for compressed chunks."""
    record = RECORD.model_copy(update={"think_text": "思 " * 700_000})
    assert read_record(saved(record)) == record


def test_other_tools_find_their_line() -> None:
    with Image.open(io.BytesIO(saved())) as image:
        prompt, _, line = image.info["parameters"].rpartition("\n")
    assert prompt == RECORD.prompt
    pairs = dict(pair.split(": ", 1) for pair in line.split(", "))
    assert pairs["Steps"] == "4"
    assert pairs["Seed"] == "7"
    assert pairs["Size"] == "96x64"
    assert pairs["CFG scale"] == "0.333333"
    assert pairs["Model"] == "SenseNova-U1-8B-MoT"


def test_model_folder_is_shown_by_its_name() -> None:
    record = changed_record(model="/data/models, old/u1/")
    with Image.open(io.BytesIO(saved(record))) as image:
        assert "Model: u1, " in image.info["parameters"]


def test_any_viewer_shows_the_record() -> None:
    with Image.open(io.BytesIO(saved())) as image:
        content = json.loads(image.info[KEYWORD])
    assert content["format"] == FORMAT
    assert content["settings"]["seed"] == 7
    assert "一只可爱的猫 🐈, café".encode() in saved(), "plain UTF-8, neither compressed nor escaped"


def test_file_names_that_are_not_utf8() -> None:
    """Linux allows them; Python represents their bytes as lone surrogates."""
    source = InputFile(path="/in/caf\udce9.png", sha256="ab" * 32)
    record = changed_record(inputs=(source,), model="/models/u\udcff", prompt="a \udcff cat")
    assert read_record(saved(record)) == record
    with Image.open(io.BytesIO(saved(record))) as image:
        assert "Model: u\\udcff, " in image.info["parameters"]


def test_inputs_are_recorded_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert InputFile.of("in.png", b"").path == str(tmp_path / "in.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert InputFile.of("~/in.png", b"").path == str(tmp_path / "in.png")


def test_text_after_the_pixels_is_found() -> None:
    """Optimizers such as oxipng may move it there."""
    png = saved()
    start = png.index(b"iTXt" + KEYWORD.encode()) - 4
    length = int.from_bytes(png[start : start + 4]) + 12
    chunk, end = png[start : start + length], png[-12:]
    assert read_record(png[:start] + png[start + length : -12] + chunk + end) == RECORD


def test_pictures_without_a_record(tmp_path: Path) -> None:
    assert read_record(saved(None)) is None
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert read_record(tmp_path / "a.jpg") is None


def refused(source: Path | bytes, *words: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_record(source, None if isinstance(source, Path) else "cat.png")
    for word in words:
        assert word in caught.value.what
    assert caught.value.hint


def test_unreadable_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "there is no file", "none.png")
    refused(saved()[:-30], "cat.png", "damaged")
    refused(b"words", "cat.png", "not a picture")


def test_damaged_record() -> None:
    refused(with_chunk("{"), "cat.png", "cannot be read")
    refused(with_chunk("[]"), "not a record of sensenova")
    refused(with_chunk('{"seed": 3}'), "not a record of sensenova")
    refused(with_chunk("[" * 100_000), "cannot be read")
    refused(changed(prompt=None), "prompt")
    refused(changed(settings={"num_steps": 0}), "num_steps")
    refused(changed(settings={"size": "33x33"}), "33x33")


def test_newer_version() -> None:
    refused(changed(format=FORMAT + 1, version="9.1"), "cat.png", "newer version of sensenova (9.1)")


def test_unknown_entries_are_ignored_but_unknown_settings_are_errors() -> None:
    """An unknown setting would change the replayed picture."""
    assert read_record(changed(mood="cheerful")) == RECORD
    refused(changed(settings={"sampler": "heun"}), "sampler")


def test_input_files_are_identified_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(b"abc")
    known = InputFile.of(path)
    assert known.path == str(path)
    assert known.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert InputFile.of("-", b"abc") == InputFile(path="-", sha256=known.sha256)
    path.write_bytes(b"abd")
    assert InputFile.of(path) != known


def test_a_record_that_another_library_saved_again() -> None:
    """It stored UTF-8 in a chunk for Latin-1."""
    record = read_record(CASES / "record_resaved.png")
    assert record is not None and record.prompt == "ein süßes Kätzchen 猫 auf blauem Grund"


def test_records_are_ascii() -> None:
    content = saved(changed_record(prompt="ein süßes 猫"))
    start = content.index(KEYWORD.encode())
    length = struct.unpack(">I", content[start - 8 : start - 4])[0]
    assert content[start : start + length].isascii()
    assert b"\\u732b" in content


@pytest.mark.parametrize("saved_as", ["text", "compressed"])
def test_records_survive_programs_that_save_the_text_again(saved_as: str) -> None:
    record = changed_record(prompt="ein süßes 猫")
    with Image.open(io.BytesIO(saved(record))) as image:
        text, buffer, chunks = image.text[KEYWORD], io.BytesIO(), PngInfo()  # type: ignore[attr-defined]
        chunks.add_text(KEYWORD, str(text), zip=saved_as == "compressed")
        image.save(buffer, "PNG", pnginfo=chunks)
    assert read_record(buffer.getvalue()) == record


ANSWER = {
    "index": 1,
    "settings": {"seed": 6, "max_tokens": 9},
    "system": "Brief.",
    "history": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "bc", "images_at": [1]}],
}


def test_the_answer_of_a_picture() -> None:
    record = read_record(changed(task="interleave", answer=ANSWER))
    assert record is not None and record.answer is not None
    assert (record.index, record.answer.settings.max_tokens, record.answer.earlier_images) == (1, 9, 1)
    assert record.answer.history[1].images_at == (1,)
    assert read_record(saved(record)) == record


def test_other_tasks_have_no_entry_for_it() -> None:
    assert "answer" not in json.loads(json.dumps(RECORD.model_dump(mode="json")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "interleave"}, "(answer is missing)"),
        ({"answer": ANSWER}, "(the task edit has no answer)"),
        ({"task": "interleave", "answer": {**ANSWER, "index": -1}}, "(answer.index: "),
        ({"task": "interleave", "answer": {**ANSWER, "settings": {"max_tokens": 0}}}, "(answer.settings.max_tokens: "),
        (
            {"task": "interleave", "answer": {**ANSWER, "history": [{"role": "a", "text": ""}]}},
            "(answer.history.0.role",
        ),
        ({"task": "interleave", "answer": {**ANSWER, "history": "none"}}, "(answer.history: "),
    ],
)
def test_damaged_answers_are_refused(changes: dict[str, object], reason: str) -> None:
    refused(changed(**changes), f"the record in cat.png cannot be read {reason}")
