"""Alternatives, variables and seeds: what they become, in which order, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensenova_cli.errors import UsageError
from sensenova_cli.inputs.expansion import (
    MAX_PROMPTS,
    escaped_prompt,
    expand_prompts,
    parse_seeds,
    parse_variables,
    take_seeds,
    with_seeds,
)
from sensenova_cli.inputs.flags import Flags
from sensenova_cli.inputs.prompts import Prompt


def expanded(text: str, *variables: str) -> list[str]:
    return [prompt.text for prompt in expand_prompts([Prompt(text)], parse_variables(variables))]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a {red|blue} cat", ["a red cat", "a blue cat"]),
        ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
        ("a {big |}cat", ["a big cat", "a cat"]),
        ("{a|{b|c} d}", ["a", "b d", "c d"]),
        ("{a|a}", ["a"]),
        ('{"subject": "{cat|dog}", "style": {"ink": 1}}', ['{"subject": "cat", "style": {"ink": 1}}',
                                                          '{"subject": "dog", "style": {"ink": 1}}']),
        ("{{red|blue}} cat", ["{red|blue} cat"]),
        ("{{a|b}|c}", ["a", "b", "c"]),
        ("{ {a|b} }", ["{ a }", "{ b }"]),
    ],
)  # fmt: skip
def test_alternatives(text: str, texts: list[str]) -> None:
    assert expanded(text) == texts


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "a {cat}",
        "{{cat}}",
        "{}",
        "a | b",
        "open { a | b",
        "a | b } closed",
        "} | {",
        r"\{x\} | \{y\}",
        'a sign "{" and "|"',
        "{" * 200_000 + "|",
        "|" + "}" * 200_000,
    ],
)
def test_other_prompts_stay_as_they_are(text: str) -> None:
    assert expanded(text) == [text]


@given(st.text(alphabet="{|}ab ", max_size=30))
def test_every_text_can_be_escaped(text: str) -> None:
    assert expanded(escaped_prompt(text)) == [text]


@given(st.text(alphabet="{}ab ", max_size=30))
def test_only_bars_in_braces_change_a_prompt(text: str) -> None:
    assert expanded(text) == [text] == [escaped_prompt(text)]


def test_variables_vary_slower_than_alternatives() -> None:
    assert expanded("{x|y} {b} {a}", "a=1,2", "b=3,4") == [
        *("x 3 1", "y 3 1", "x 4 1", "y 4 1"),
        *("x 3 2", "y 3 2", "x 4 2", "y 4 2"),
    ]


def test_a_variable_has_the_same_value_everywhere_in_a_prompt() -> None:
    assert expanded("{c} and {c}, {small|{c}}", "c=red, light blue") == [
        "red and red, small",
        "red and red, red",
        "light blue and light blue, small",
        "light blue and light blue, light blue",
    ]


def test_values_with_commas_and_plain_braces() -> None:
    assert expanded("{{c}} is {c}", r"c=red\, or so,blue") == ["{c} is red, or so", "{c} is blue"]


def test_each_prompt_is_combined_with_the_variables_that_it_uses() -> None:
    prompts = [Prompt("a {color} cat", place="p.txt:1: "), Prompt("a dog", place="p.txt:2: ")]
    made = expand_prompts(prompts, parse_variables(["color=red,blue"]))
    assert [(each.place, each.text) for each in made] == [
        ("p.txt:1: ", "a red cat"), ("p.txt:1: ", "a blue cat"), ("p.txt:2: ", "a dog")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("color", "--var color is not a variable", "write it like --var color=red,blue"),
        ("=red", "--var =red is not a variable", "write it like --var color=red,blue"),
        ("a b=red", "--var a b=red is not a variable", "write it like --var color=red,blue"),
        ("color=", "--var color=: it has no values", "write it like --var color=red,blue"),
        ("color= , ", "--var color= , : it has no values", "write it like --var color=red,blue"),
        ("color=red,", "--var color=red,: a value is empty", "write it like --var color=red,blue"),
    ],
)
def test_variables_that_are_refused(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_variables([word])
    assert (error.value.what, error.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("text", "words", "message", "hint"),
    [
        ("a cat", ["color=red"], "--var color=red: no prompt uses it", "write {color} in the prompt, or leave it out"),
        ("a {colour} {color}", ["color=red"], "the prompt uses {colour}, which no --var defines",
         "write {color}, or {{colour}} for plain braces"),
        ("a {size} {color}", ["color=red"], "the prompt uses {size}, which no --var defines",
         "add --var size=…, or {{size}} for plain braces"),
        ("{color}", ["color=red", "color=blue"], "--var color is given twice",
         "write all its values in one: --var color=a,b,c"),
    ],
)  # fmt: skip
def test_prompts_and_variables_that_do_not_fit(text: str, words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        expanded(text, *words)
    assert (error.value.what, error.value.hint) == (message, hint)


@pytest.mark.parametrize(("text", "count"), [("{a|b}" * 64, 2**64), ("{a|b}" * 14, 2**14)])
def test_too_many_combinations_are_refused_before_they_are_made(text: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"{count:,} combinations of alternatives and values are too many") as error:
        expanded(text)
    assert error.value.hint == "give fewer alternatives and values, or split the run"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("1..4", [1, 2, 3, 4]), ("3,5,9", [3, 5, 9]), ("9, 1..2", [9, 1, 2]), ("0..0", [0]), (" 7 .. 8 ", [7, 8])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    made = with_seeds([Prompt("a"), Prompt("b")], parse_seeds(text))
    assert [(each.text, each.settings["seed"]) for each in made] == [(text, seed) for text in "ab" for seed in seeds]


def test_a_line_with_its_own_seed_keeps_it() -> None:
    made = with_seeds([Prompt("a", settings={"seed": 7}), Prompt("b")], parse_seeds("1..2"))
    assert [(each.text, each.settings["seed"]) for each in made] == [("a", 7), ("b", 1), ("b", 2)]


def test_a_random_seed_is_another_one_each_time() -> None:
    seeds = {parse_seeds("Random").text for _ in range(8)}
    assert len(seeds) > 1 and all(0 <= int(each) < 2**32 for each in seeds)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("8..1", "--seed 8..1: the range 8..1 is empty", "begin with the smaller number: 1..8"),
        ("1..", "--seed 1..: 1.. is neither a number nor a range", "write it like 7, 3,5,9, 1..8 or random"),
        ("1,,2", "--seed 1,,2: an empty place is neither a number nor a range",
         "write it like 7, 3,5,9, 1..8 or random"),
        ("1,random", "--seed 1,random: random is neither a number nor a range",
         "write it like 7, 3,5,9, 1..8 or random"),
        ("-1..2", "--seed -1..2: -1..2 is neither a number nor a range", "write it like 7, 3,5,9, 1..8 or random"),
        ("1-8", "--seed 1-8 is not a range", "try --seed 1..8"),
        ("5,1..8", "--seed 5,1..8: the seed 5 is there twice", "give each seed once"),
        ("0..9223372036854775808", "--seed 0..9223372036854775808: the seed 9223372036854775808 is too large",
         "the largest one is 9223372036854775807"),
        ("1.." + "9" * 5000, f"--seed 1..{'9' * 5000}: 1..{'9' * 5000} is neither a number nor a range",
         "write it like 7, 3,5,9, 1..8 or random"),
    ],
)  # fmt: skip
def test_seeds_that_are_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_seeds(text)
    assert (error.value.what, error.value.hint) == (message, hint)


def test_a_huge_range_is_refused_before_it_is_made() -> None:
    with pytest.raises(UsageError, match="combinations of prompts and seeds are too many"):
        with_seeds([Prompt("a")], parse_seeds(f"0..{2**62}"))
    assert len(with_seeds([Prompt("a")], parse_seeds(f"1..{MAX_PROMPTS}"))) == MAX_PROMPTS


@pytest.mark.parametrize("seed", ["7", "x", "-1", ""])
def test_a_single_seed_is_left_to_the_settings(seed: str) -> None:
    flags = Flags({"seed": seed})
    assert take_seeds(flags) == (flags, None)


@pytest.mark.parametrize(("seed", "count", "fits"), [("1..3", "2", False), ("1,3", "2", True), ("5,1,4", "2", False)])
def test_several_pictures_for_each_seed_must_differ(seed: str, count: str, fits: bool) -> None:
    flags = Flags({"seed": seed, "num_images": count, "size": "64x64"})
    if fits:
        assert take_seeds(flags)[0].settings == {"num_images": count, "size": "64x64"}
        return
    with pytest.raises(UsageError, match="would make pictures twice") as error:
        take_seeds(flags)
    assert error.value.hint == "leave -n out, or give seeds that are 2 apart"
