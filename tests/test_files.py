"""Files are replaced in one step."""

from __future__ import annotations

import pytest

from consistent_calc.files import replacing


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("old", "new"):
        with replacing(path) as new:
            new.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_one(error, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_and_fail():
        with replacing(path) as new:
            new.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
