import hashlib
import os
import secrets

import pytest

from rcgm.files import replaced_atomically, sha256_of, write_atomically


def test_writes_text_and_bytes_and_makes_folders(tmp_path):
    path = tmp_path / "a/b.txt"
    assert write_atomically(path, "größer") == path
    assert path.read_text(encoding="utf-8") == "größer"
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [item.name for item in path.parent.iterdir()] == ["b.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_that_is_written_by_others(tmp_path):
    path = tmp_path / "deep" / "file"
    with replaced_atomically(path) as temporary:
        temporary.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one" and sha256_of(path) == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(FileNotFoundError), replaced_atomically(path) as temporary:
        temporary.with_name("nowhere").read_bytes()
    assert path.read_bytes() == b"one" and list(path.parent.iterdir()) == [path]


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda length: "guessed")
    (tmp_path / ".a.txt.guessed.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "a.txt", "new")
    assert victim.read_text() == "precious" and not (tmp_path / "a.txt").exists()


def test_temporary_names_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(3):
        with replaced_atomically(tmp_path / "a.txt") as temporary:
            names.add(temporary.name)
    assert len(names) == 3
    assert all(len(name.split(".")[-2]) == 16 for name in names)


def test_files_get_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    assert write_atomically(tmp_path / "a.txt", "x").stat().st_mode == plain.stat().st_mode
