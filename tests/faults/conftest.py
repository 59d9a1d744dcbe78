"""The program imported, and the files that every command finds, once for a test process."""

from pathlib import Path

import pytest

from tests.faults.cases import import_program, write_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that each case copies."""
    import_program()
    folder = tmp_path_factory.mktemp("faults") / "template"
    write_template(folder)
    return folder
