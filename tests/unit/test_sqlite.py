"""Databases are private, and say what is wrong with them."""

import contextlib

import pytest

from ainet.errors import AinetError
from ainet.sqlite import open_database

SCHEMA = "CREATE TABLE IF NOT EXISTS notes (text TEXT)"
ADVICE = "Restore it from a backup."


def test_what_was_written_is_there_again_and_for_the_owner_alone(tmp_path):
    path = tmp_path / "notes.sqlite"
    with contextlib.closing(open_database(path, SCHEMA, 1, advice=ADVICE)) as notes:
        notes.execute("INSERT INTO notes VALUES ('one')")
    assert path.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(open_database(path, SCHEMA, 2, advice=ADVICE)) as notes:
        assert notes.execute("SELECT * FROM notes").fetchall() == [("one",)]


def test_a_newer_file_is_left_alone(tmp_path):
    path = tmp_path / "notes.sqlite"
    open_database(path, SCHEMA, 7, advice=ADVICE).close()
    with pytest.raises(AinetError, match="was written by a newer ainet"):
        open_database(path, SCHEMA, 6, advice=ADVICE)
    open_database(path, SCHEMA, 7, advice=ADVICE).close()


def test_a_damaged_file_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(AinetError, match=r"notes\.sqlite is damaged \(.*\)\. Restore it from a backup\."):
        open_database(path, SCHEMA, 1, advice=ADVICE)
