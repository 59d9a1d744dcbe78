import pytest

from config.units import count_of, format_bytes, format_memory, parse_memory


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GiB", 8 * 2**30), ("7.5 gb", 7_500_000_000), ("900MiB", 900 * 2**20), ("64kb", 64_000), (" 1GIB ", 2**30)],
)
def test_amounts(text: str, count: int) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "8", "GiB", "8 TiB", "-8GiB", "0GiB", "8G", "1e3MB"])
def test_other_text_is_not_an_amount(text: str) -> None:
    assert parse_memory(text) is None


def test_amounts_as_text() -> None:
    assert [format_memory(count) for count in (900 * 2**20, 2**30, 8_482_560_000)] == ["900 MiB", "1.0 GiB", "7.9 GiB"]


def test_sizes_of_files_as_text() -> None:
    assert [format_bytes(count) for count in (0, 4_400, 512_000_000, 16_340_000_000)] == [
        "0 kB",
        "4 kB",
        "512 MB",
        "16.3 GB",
    ]


def test_one_thing_and_several() -> None:
    assert [count_of(number, "step") for number in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
