"""Files of prompts: lines, GenEval's metadata, DPG-Bench's folder and table."""

import pytest

from rcgm.runs.prompt_files import Prompt, read_prompts


def test_lines(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat \n two dogs\u2028and more\n\n")
    assert read_prompts(file) == [Prompt("a cat"), Prompt("two dogs\u2028and more")]


def test_metadata_keeps_its_lines(tmp_path):
    file = tmp_path / "metadata.jsonl"
    lines = ['{"tag": "single_object", "prompt": "a photo of a bench"}', '{"prompt": "a  clock", "include": []}']
    file.write_text("\n".join(lines))
    found = read_prompts(file)
    assert [prompt.text for prompt in found] == ["a photo of a bench", "a  clock"]
    assert [prompt.line for prompt in found] == lines


def test_a_folder_and_a_table_give_the_same_prompts(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name, text in (("b7", "a long, dense prompt\n"), ("a1", "another")):
        (folder / f"{name}.txt").write_text(text)
    (folder / "notes.md").write_text("no prompt")
    expected = [Prompt("another", "a1"), Prompt("a long, dense prompt", "b7")]
    assert read_prompts(folder) == expected
    table = tmp_path / "dpg_bench.csv"
    table.write_text('item_id,text,proposition_id\na1,another,1\na1,another,2\nb7,"a long, dense prompt",1\n')
    assert read_prompts(table) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "\n", "without any"),
        ("blank.txt", "a\n \nb\n", "line 2 of .*blank.txt"),
        ("a.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2"),
        ("a.jsonl", "a\n", "must be a JSON object"),
        ("a.jsonl", '{"prompt": 3}\n', "must be a JSON object"),
        ("a.csv", "id,text\n1,a\n", "columns item_id and text"),
        ("latin.txt", b"caf\xe9\n", "must be text in UTF-8"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_prompts(file)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder of prompts"):
        read_prompts(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"folder of \.txt files"):
        read_prompts(tmp_path)
