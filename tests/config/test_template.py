import tomllib

from config.settings import SETTING_NAMES, ServeSettings, Settings
from config.template import EXAMPLES, settings_template


def test_new_file_changes_nothing_until_it_is_edited() -> None:
    assert tomllib.loads(settings_template({})) == {"serve": {}}


def test_every_setting_can_be_uncommented() -> None:
    lines = [line.removeprefix("#") for line in settings_template({}).splitlines() if not line.startswith("# ")]
    values = tomllib.loads("\n".join(lines))
    serve = values.pop("serve")
    assert set(values) == set(SETTING_NAMES)
    assert set(serve) == set(ServeSettings.model_fields)
    fields = {**Settings.model_fields, **ServeSettings.model_fields}
    without_default = set(EXAMPLES)
    assert {name for name, field in fields.items() if field.default is None} == without_default
    settings = Settings.model_validate(values)
    assert settings.model_dump(exclude=without_default) == Settings().model_dump(exclude=without_default)
    server = ServeSettings.model_validate(serve)
    assert server.model_dump(exclude=without_default) == ServeSettings().model_dump(exclude=without_default)


def test_every_setting_is_explained() -> None:
    words = " ".join(settings_template({}).replace("\n# ", " ").split())
    for name, field in {**Settings.model_fields, **ServeSettings.model_fields}.items():
        assert str(field.description) in words, name


def test_given_values_are_set() -> None:
    text = settings_template({"num_steps": 8, "size": "16:9"}, 'with "quotes"', {"port": 9000})
    assert tomllib.loads(text) == {
        "description": 'with "quotes"',
        "num_steps": 8,
        "size": "16:9",
        "serve": {"port": 9000},
    }
