"""Pictures in the terminal: the method follows from the environment, and unsuitable consoles show nothing."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pyte
import pytest
from PIL import Image
from rich.console import Console
from rich.live import Live

from config.settings import PreviewChoice
from sensenova_cli.errors import UsageError
from sensenova_cli.render.preview import LivePreview, Preview, contact_sheet, detect, has_links, show
from sensenova_cli.render.preview.detect import Method
from sensenova_cli.render.preview.renderables import fit
from sensenova_cli.render.preview.sheet import DIGITS
from sensenova_cli.render.progress import LiveSteps

PLAIN = {"TERM": "xterm-256color"}
NONE: dict[str, str] = {}


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]


def console(
    width: int = 80,
    height: int = 24,
    *,
    colors: str | None = "truecolor",
    file: io.StringIO | None = None,
    environment: dict[str, str] = NONE,
) -> Console:
    return Console(
        file=file or Terminal(),
        force_terminal=True,
        color_system=colors,  # type: ignore[arg-type]
        width=width,
        height=height,
        _environ={**PLAIN, **environment},
    )


def written(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def screen_of(text: str, width: int = 80, height: int = 24) -> pyte.Screen:
    screen = pyte.Screen(width, height)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return screen


def pixels(screen: pyte.Screen) -> list[list[tuple[str, str]]]:
    """Return the colors of each half block as (upper, lower), row by row."""
    rows = [
        [(cell.fg, cell.bg) for x in range(screen.columns) if (cell := screen.buffer[y][x]).data == "▀"]
        for y in range(screen.lines)
    ]
    return [row for row in rows if row]


def shown(image: Image.Image, setting: PreviewChoice, width: int = 80, height: int = 24) -> str:
    on = console(width, height)
    Preview.choose(on, setting, PLAIN).show(image)
    return written(on)


def quarters(width: int, height: int) -> Image.Image:
    """Return a picture with red, green, blue and white quarters."""
    small = Image.new("RGB", (2, 2))
    for at, color in (((0, 0), "red"), ((1, 0), "lime"), ((0, 1), "blue"), ((1, 1), "white")):
        small.paste(color, (*at, at[0] + 1, at[1] + 1))
    return small.resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture
def cells_of_8_by_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "cell_size", lambda console: (8, 20))


class TestTheWayItIsShown:
    @pytest.mark.parametrize(
        ("environment", "method"),
        [
            ({"TERM": "xterm-kitty"}, "kitty"),
            ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
            ({"TERM": "xterm-ghostty"}, "kitty"),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
            ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
            ({"TERM": "wezterm"}, "iterm2"),
            ({"TERM": "xterm-256color", "WEZTERM_PANE": "0"}, "iterm2"),
            ({"TERM": "xterm-256color"}, "blocks"),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
            ({"TERM": "foot"}, "blocks"),
            # Started from kitty or iTerm2, with inherited variables.
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, "blocks"),
            ({"TERM": "alacritty", "KITTY_WINDOW_ID": "1"}, "blocks"),
            ({"TERM": "xterm-256color", "VTE_VERSION": "7600", "LC_TERMINAL": "iTerm2"}, "blocks"),
            ({"TERM": "xterm-256color", "KONSOLE_VERSION": "230804", "KITTY_WINDOW_ID": "1"}, "blocks"),
            ({"TERM": "xterm-kitty", "TERM_PROGRAM": "iTerm.app"}, "kitty"),
        ],
    )
    def test_follows_from_the_terminal(self, environment: dict[str, str], method: Method) -> None:
        assert Preview.choose(console(), "auto", environment).method == method

    @pytest.mark.parametrize(
        "inside",
        [
            {"TMUX": "/tmp/tmux-0/default,1,0", "TERM": "tmux-256color"},
            {"TMUX": "/tmp/tmux-0/default,1,0", "TERM": "xterm-kitty"},
            {"STY": "1.pts-0", "TERM": "xterm-256color"},
            {"TERM": "screen-256color"},
            {"ZELLIJ": "0", "TERM": "xterm-kitty"},
        ],
    )
    def test_is_half_blocks_inside_a_multiplexer_unless_a_protocol_is_forced(self, inside: dict[str, str]) -> None:
        outer = {"KITTY_WINDOW_ID": "1", "LC_TERMINAL": "iTerm2", **inside}
        assert Preview.choose(console(), "auto", outer).method == "blocks"
        assert Preview.choose(console(), "kitty", outer).method == "kitty"

    @pytest.mark.parametrize("setting", ["kitty", "iterm2", "blocks"])
    def test_can_be_forced(self, setting: PreviewChoice) -> None:
        assert Preview.choose(console(), setting, PLAIN).method == setting

    @pytest.mark.parametrize("setting", ["auto", "kitty", "iterm2", "blocks", "off"])
    @pytest.mark.parametrize(
        "on",
        [
            pytest.param(lambda: console(file=Pipe()), id="a pipe"),
            pytest.param(lambda: console(environment={"NO_COLOR": "1"}), id="NO_COLOR"),
            pytest.param(lambda: console(environment={"TERM": "dumb"}), id="TERM=dumb"),
            pytest.param(lambda: console(colors=None), id="no colors"),
            pytest.param(lambda: console(width=7), id="narrow"),
            pytest.param(lambda: console(height=6), id="low"),
        ],
    )
    def test_is_none_on_unsuitable_consoles(self, on: object, setting: PreviewChoice) -> None:
        made: Console = on()  # type: ignore[operator]
        preview = Preview.choose(made, setting, {"TERM": "xterm-kitty"})
        preview.show(quarters(64, 64))
        preview.show_several([quarters(64, 64)] * 2)
        assert written(made) == ""

    def test_off_is_off(self) -> None:
        on = console()
        preview = Preview.choose(on, "off", {"TERM": "xterm-kitty"})
        preview.show(quarters(64, 64))
        assert written(on) == ""
        assert preview.live() is None

    def test_is_none_with_sixteen_colors_unless_half_blocks_are_forced(self) -> None:
        assert Preview.choose(console(colors="standard"), "auto", PLAIN).method is None
        assert Preview.choose(console(colors="standard"), "blocks", PLAIN).method == "blocks"

    @pytest.mark.parametrize("setting", ["auto", "blocks"])
    def test_is_none_where_the_character_set_has_no_half_blocks(self, setting: PreviewChoice) -> None:
        latin = Terminal()
        latin.encoding = "iso-8859-1"  # type: ignore[misc, assignment]
        assert Preview.choose(console(file=latin), setting, PLAIN).method is None

    def test_names_the_package_for_sixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detect, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match="textual-image") as raised:
            Preview.choose(console(), "sixel", PLAIN)
        assert "pip install '.[sixel]'" in raised.value.hint
        # No error if the package would not be used.
        assert Preview.choose(console(file=Pipe()), "sixel", PLAIN).method is None


class TestLinks:
    @pytest.mark.parametrize(
        ("environment", "has"),
        [
            ({"TERM": "xterm-kitty"}, True),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, True),
            ({"TERM": "xterm-256color", "VTE_VERSION": "7600"}, True),
            ({"TERM": "xterm-256color", "VTE_VERSION": "4800"}, False),
            ({"TERM": "xterm-256color"}, False),
            ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, False),
            ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, False),
            ({"TERM": "xterm-kitty", "SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22"}, False),
        ],
    )
    def test_follow_from_the_terminal(self, environment: dict[str, str], has: bool) -> None:
        assert has_links(console(), environment) is has
        assert not has_links(console(file=Pipe()), environment)


class TestTheRoomItTakes:
    @pytest.mark.parametrize(("part", "rows"), [(show.SCREEN, 21), (show.HALF, 12), (show.SMALL, 8)])
    def test_is_at_most_a_part_of_the_rows(self, part: float, rows: int) -> None:
        on = console(height=24)
        Preview.choose(on, "blocks", PLAIN, part).show(Image.new("RGB", (1000, 1000), "red"))
        assert len(pixels(screen_of(written(on)))) == rows

    @pytest.mark.parametrize(
        ("size", "room", "taken"),
        [
            ((1024, 1024), (80, 21), (42, 21)),
            ((1024, 1024), (30, 21), (30, 15)),
            ((2048, 1024), (80, 21), (80, 20)),
            ((1024, 2048), (80, 21), (21, 21)),
            ((6400, 32), (80, 21), (80, 1)),  # the most extreme shapes
            ((32, 6400), (80, 21), (1, 21)),
            ((20, 20), (80, 21), (20, 10)),  # never enlarged
        ],
    )
    def test_keeps_the_shape_within_the_limits(
        self, size: tuple[int, int], room: tuple[int, int], taken: tuple[int, int]
    ) -> None:
        assert fit(size, (1, 2), *room) == taken

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_of_half_blocks_fits_the_screen(self, width: int) -> None:
        on = console(width, 60)
        Preview.choose(on, "blocks", PLAIN).show(Image.new("RGB", (4000, 1000), "red"))
        rows = pixels(screen_of(written(on), width, 60))
        columns = min(width, show.MAX_COLUMNS)
        assert {len(row) for row in rows} == {columns}
        assert len(rows) == columns // 8

    def test_leaves_rows_of_a_low_screen_free(self) -> None:
        rows = pixels(screen_of(shown(Image.new("RGB", (1000, 1000), "red"), "blocks", 80, 12), 80, 12))
        assert (len(rows), len(rows[0])) == (9, 18)

    @pytest.mark.usefixtures("cells_of_8_by_20")
    def test_depends_on_the_shape_of_the_cells(self) -> None:
        assert re.search("c=52,r=21", shown(quarters(1000, 1000), "kitty"))


class TestHalfBlocks:
    @pytest.mark.parametrize("width", [40, 80])
    def test_have_the_colors_of_the_picture(self, width: int) -> None:
        rows = pixels(screen_of(shown(quarters(800, 800), "blocks", width), width))
        assert rows[0][0] == ("ff0000", "ff0000")
        assert rows[0][-1] == ("00ff00", "00ff00")
        assert rows[-1][0] == ("0000ff", "0000ff")
        assert rows[-1][-1] == ("ffffff", "ffffff")

    def test_show_two_pixels_in_a_cell(self) -> None:
        image = Image.new("RGB", (8, 8), "red")
        image.paste("blue", (0, 1, 8, 2))
        assert pixels(screen_of(shown(image, "blocks")))[0] == [("ff0000", "0000ff")] * 8

    def test_take_the_nearest_of_256_colors_that_no_theme_changes(self) -> None:
        on = console(colors="256")
        Preview.choose(on, "blocks", PLAIN).show(Image.new("RGB", (40, 40), (40, 60, 40)))
        numbers = {int(found) for found in re.findall(r"[34]8;5;(\d+)", written(on))}
        assert numbers == {236}  # grey 48, not the green of 95 that is nearest in the color cube

    def test_leave_the_cursor_below_the_picture(self) -> None:
        screen = screen_of(shown(quarters(20, 20), "blocks"))
        assert (screen.cursor.y, screen.cursor.x) == (10, 0)


def kitty_pictures(text: str) -> Iterator[tuple[dict[str, str], Image.Image]]:
    """Yield the keys of each picture's first sequence, and the picture."""
    keys: dict[str, str] = {}
    payload = ""
    for found in re.finditer("\x1b_G(.*?);(.*?)\x1b\\\\", text, re.DOTALL):
        these = dict(pair.split("=") for pair in found[1].split(","))
        assert len(found[2]) <= 4096
        assert these["q"] == "2"
        if not payload:
            keys = these
            assert (these["a"], these["f"]) == ("T", "100")
        else:
            assert these.keys() == {"q", "m"}
        if these["m"] == "1":
            assert len(found[2]) % 4 == 0
        payload += found[2]
        if these["m"] == "0":
            yield keys, Image.open(io.BytesIO(base64.b64decode(payload, validate=True)))
            payload = ""
    assert not payload


class TestProtocols:
    def noise(self) -> Image.Image:
        """Return a picture that is shown at its own size and too large for one of kitty's chunks."""
        noise = Image.effect_noise((400, 200), 100)
        return Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_180), noise))

    def test_kitty_gets_the_picture(self) -> None:
        image = self.noise()
        text = shown(image, "kitty")
        [(keys, received)] = kitty_pictures(text)
        assert text.count("\x1b_G") > 10
        assert (keys["c"], keys["r"], keys["C"]) == ("40", "10", "1")
        assert list(received.tobytes()) == list(image.tobytes())

    def test_kitty_gets_a_small_picture_in_one_piece(self) -> None:
        [(keys, received)] = kitty_pictures(shown(quarters(40, 40), "kitty"))
        assert keys["m"] == "0"
        assert received.tobytes() == quarters(40, 40).tobytes()

    def test_iterm2_gets_the_picture(self) -> None:
        image = self.noise()
        found = re.search("\x1b]1337;File=([^:]*):([^\x07]*)\x07", shown(image, "iterm2"))
        assert found is not None
        keys = dict(pair.split("=") for pair in found[1].split(";"))
        file = base64.b64decode(found[2], validate=True)
        assert (keys["inline"], keys["width"], keys["height"], keys["size"]) == ("1", "40", "10", str(len(file)))
        assert Image.open(io.BytesIO(file)).tobytes() == image.tobytes()

    @pytest.mark.skipif(find_spec("textual_image") is None, reason="needs the extra `sixel`")
    def test_sixels_have_the_size_and_the_colors_of_the_picture(self) -> None:
        text = shown(quarters(200, 100), "sixel")
        found = re.search("\x1bP[^q]*q(.*?)\x1b\\\\", text, re.DOTALL)
        assert found is not None
        assert re.match('"1;1;200;100', found[1])
        colors = set(re.findall(r"#\d+;2;(\d+;\d+;\d+)", found[1]))
        assert colors == {"100;0;0", "0;100;0", "0;0;100", "100;100;100"}
        assert "\x1b[c" not in text, "it queried the terminal"

    def test_no_more_pixels_are_sent_than_are_shown(self) -> None:
        [(_, received)] = kitty_pictures(shown(quarters(4000, 4000), "kitty"))
        assert received.size == (42 * 10, 21 * 20)

    @pytest.mark.parametrize("setting", ["kitty", "iterm2"])
    @pytest.mark.parametrize("lines_before", [1, 23])
    def test_the_cursor_ends_below_the_picture(self, setting: PreviewChoice, lines_before: int) -> None:
        """Even if the screen has to scroll; the text above is not covered."""
        before = "".join(f"line {number}\n" for number in range(lines_before))
        text = shown(quarters(200, 200), setting)
        # The test's terminal cannot show pictures; a letter marks the beginning of one.
        drawn = re.sub("\x1b_G.*\x1b\\\\|\x1b]1337;[^\x07]*\x07", "X", text, flags=re.DOTALL)
        screen = screen_of(before + drawn + "after")
        rows = [line.rstrip() for line in screen.display]
        at = rows.index("X")
        assert rows[at - 1] == f"line {lines_before - 1}"
        assert rows[at : at + 11] == ["X", *[""] * 9, "after"]


class TestContactSheets:
    def digit(self, number: int) -> list[str]:
        return [row[4 * number : 4 * number + 3] for row in DIGITS]

    def test_contain_all_pictures_with_their_numbers(self) -> None:
        """Checked with half blocks, which give the smallest sheets."""
        colors = ["red", "lime", "blue", "purple"]
        on = console()
        Preview.choose(on, "blocks", PLAIN).show_several([Image.new("RGB", (640, 640), name) for name in colors])
        rows = pixels(screen_of(written(on)))
        dots = [[pair[half] for pair in row] for row in rows for half in (0, 1)]
        tile = 20
        for index, color in enumerate(("ff0000", "00ff00", "0000ff", "800080")):
            left, top = index % 2 * (tile + 1), index // 2 * (tile + 1)
            assert dots[top + 15][left + 15] == color
            box = [dots[top + y][left + 1 : left + 4] for y in range(1, 6)]
            assert ["".join("#" if dot == "ffffff" else " " for dot in row) for row in box] == self.digit(index + 1)

    def test_show_pictures_of_different_shapes_whole(self) -> None:
        sheet = contact_sheet(
            [Image.new("RGB", (300, 100), "red"), Image.new("RGB", (100, 300), "blue")], (960, 640), [1, 2]
        )
        assert sheet.size[0] <= 960
        assert sheet.size[1] <= 640
        middle, blue = (sheet.width // 2, sheet.height * 3 // 4), (0, 0, 255)
        wide = sum(sheet.getpixel((x, middle[1])) == blue for x in range(sheet.width))
        high = sum(sheet.getpixel((middle[0], y)) == blue for y in range(sheet.height))
        assert wide / high == pytest.approx(1 / 3, abs=0.02)
        assert high == pytest.approx(sheet.height / 2, abs=10)

    def test_continue_the_numbers_on_the_next_sheet(self) -> None:
        on = console()
        Preview.choose(on, "kitty", PLAIN).show_several([quarters(64, 64)] * (show.PER_SHEET + 1))
        _, (_, second) = kitty_pictures(written(on))
        alone = contact_sheet([quarters(64, 64)], (800, 420), [10])
        assert second.size == alone.size
        assert second.tobytes() == alone.tobytes()


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(show, "time", clock)
    return clock


class TestAFormingPicture:
    def live(self, on: Console) -> LivePreview:
        live = Preview.choose(on, "auto", PLAIN).live()
        assert live is not None
        return live

    def test_is_half_blocks_even_if_the_finished_one_is_not(self) -> None:
        for method in ("kitty", "iterm2"):
            assert Preview.choose(console(), method, PLAIN).live() is not None
        assert Preview.choose(console(colors="standard"), "kitty", PLAIN).live() is None
        assert Preview.choose(console(file=Pipe()), "auto", PLAIN).live() is None

    def test_is_drawn_a_few_times_a_second_at_most(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        on = console()
        live = self.live(on)
        steps, drawn, draw = LiveSteps(on, "picture", live), [], live.draw

        def counted(image: Image.Image, refresh: Callable[[], None]) -> None:
            drawn.append(image)
            draw(image, refresh)

        monkeypatch.setattr(live, "draw", counted)
        for number in range(50):
            steps.update(number, 50, quarters(show.LIVE_SIZE, show.LIVE_SIZE))
            clock.now += 0.02
        steps.close()
        assert len(drawn) == 4  # at 0, 0.26, 0.52 and 0.78 s

    def test_is_drawn_less_often_if_drawing_is_slow(self, clock: Clock) -> None:
        live = self.live(console())

        def slow() -> None:
            clock.now += 0.5

        live.draw(quarters(8, 8), slow)
        clock.now += 9.9
        assert not live.is_due
        clock.now += 0.2
        assert live.is_due

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (30, 8), (30, 5)])
    def test_leaves_no_trace(self, width: int, height: int, clock: Clock) -> None:
        on = console(width, height)
        on.print("before")
        steps = LiveSteps(on, "picture", self.live(on))
        steps.update(0, 3)
        for number, color in enumerate(("red", "lime", "blue"), start=1):
            steps.update(number, 3, Image.new("RGB", (64, 64), color))
            clock.now += 1
        forming = screen_of(written(on), width, height)
        colors = {half for row in pixels(forming) for pair in row for half in pair}
        assert colors == ({"0000ff"} if height >= 8 else set())
        assert any("3/3" in line for line in forming.display)
        assert forming.display[0].rstrip() == "before"
        steps.close()
        on.print("after")
        lines = [line.rstrip() for line in screen_of(written(on), width, height).display if line.strip()]
        assert lines in (["before", "after"], ["after"])  # a full screen scrolls

    def test_is_part_of_any_live_display(self) -> None:
        on = console()
        live = self.live(on)
        with Live(live, console=on, auto_refresh=False) as display:
            live.draw(Image.new("RGB", (40, 40), "red"), display.refresh)
        assert len(pixels(screen_of(written(on)))) == show.MAX_LIVE_ROWS
