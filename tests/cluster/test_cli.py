"""The command line is derived from the options' dataclasses."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.cli import main
from cluster.command_table import COMMANDS
from cluster.exit_status import ExitStatus
from shards.config import options_of
from shards.config_values import from_mapping

SELECT = ["select", "--predictions", "p", "--out", "o", "--teachers", "text,vision"]
TRAIN = ["train", "setpeer", "--shards", "s", "--out", "o"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help names every option of its dataclass, with a sentence and its default."""
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0

    text = " ".join(capsys.readouterr().out.split())
    for option, declared in options_of(COMMANDS[name].config_class()).items():
        flag = "--" + option.replace("_", "-")

        is_group = option in ("encoder", "data", "engine", "model", "index")
        word = (
            option.upper()
            if declared.field.metadata["positional"]
            else option
            if is_group
            else flag
        )
        assert word in text
        assert declared.help.split()[0] in text


def test_flags_win_over_set_and_set_over_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Precedence is file, --set, flag; the printed configuration reads back as the same options."""
    file = tmp_path / "select.yaml"
    file.write_text("seed: 1\nmin_per_speaker: 1\nthreshold: 0.1\n")
    arguments = [
        *SELECT,
        "--config",
        str(file),
        "--set",
        "min_per_speaker=2",
        "--set",
        "threshold=0.2",
    ]

    assert main([*arguments, "--threshold", "0.3", "--print-config"]) == 0
    config = from_mapping(
        COMMANDS["select"].config_class(), yaml.safe_load(capsys.readouterr().out)
    )
    assert (config.seed, config.min_per_speaker, float(config.threshold)) == (1, 2, 0.3)


def test_a_recipes_own_options_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """What `model` stands for is printed with the recipe's defaults and what it was set to."""
    assert main([*TRAIN, "--set", "model.num_codes=7", "--print-config"]) == 0

    printed = capsys.readouterr().out
    assert "  num_codes: 7  # M, entries of the codebook\n" in printed
    assert "  similarity: dot  # [dot | cosine] similarity by which L_NCE" in printed
    assert (
        from_mapping(COMMANDS["train"].config_class(), yaml.safe_load(printed)).model["num_codes"]
        == 7
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_explained_before_they_are_given(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--print-config wants no required option: those that lack are comments, the rest reads back.

    A recipe is wanted, because its options are explained.
    """
    positional = ["setpeer"] if name == "train" else []
    assert main([name, *positional, "--print-config"]) == 0

    printed = capsys.readouterr().out
    required = {
        key for key, one in options_of(COMMANDS[name].config_class()).items() if one.is_required
    }
    lacking = required - {"recipe"}
    assert lacking.isdisjoint(yaml.safe_load(printed) or {})
    assert all(f"# {key}: (required) " in printed for key in lacking)

    assert main([name, *positional, "--print-config", "--set", "no_such_option=1"]) == 2
    assert "unknown option no_such_option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        (["predict", "--audio", "a,b.wav", "c.wav"], "audio", ["a,b.wav", "c.wav"]),
        (["predict", "--audio", "a,b.wav"], "audio", ["a,b.wav"]),
        (["predict", "--set", "audio=a,b.wav"], "audio", ["a,b.wav"]),
        (["evaluate", "--checkpoint", "a,b/best"], "checkpoint", ["a,b/best"]),
        (["compare", "--runs", "a,b", "c"], "runs", ["a,b", "c"]),
        (["select", "--teachers", "text,vision"], "teachers", ["text", "vision"]),
        (["select", "--teachers", "text", "vision"], "teachers", ["text", "vision"]),
        (["select", "--set", "teachers=text,vision"], "teachers", ["text", "vision"]),
    ],
)
def test_a_comma_is_part_of_a_path(
    arguments: list[str], name: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths are taken whole; lists of names may be given with commas."""
    assert main([*arguments, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)[name] == expected


def test_a_configuration_is_loaded_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    """`--set` and flags win over a named configuration; `train --help` lists the names."""
    arguments = ["train", "--config", "papt/table2", "--shards", "s", "--out", "o"]
    assert main([*arguments, "--set", "engine.num_epochs=3", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["recipe"], printed["engine"]["num_epochs"]) == ("papt", 3)
    assert printed["model"]["label_layer"] == 9

    assert main([*arguments[:1], "tapt", *arguments[1:], "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["recipe"] == "tapt"

    assert main(["train", "--config", "papt/table9", "--shards", "s", "--out", "o"]) == 2
    assert "no configuration of that name; names: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "papt/table2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select", "--predictions", "p", "--out", "o"], "teachers must be given"),
        ([*SELECT, "--set", "sede=1"], "unknown option sede"),
        ([*SELECT, "--set", "seed"], "expected NAME=VALUE"),
        (
            [*TRAIN, "--set", "set_size=1"],
            "did you mean data.sets.set_size?",
        ),
        ([*TRAIN, "--set", "engine.seed=x"], "engine.seed"),
        ([*SELECT, "--seed", "x"], "expected int"),
        (
            ["label", "--shards", "/nowhere/*.tar", "--out", "o", "--panel", "/nowhere.yaml"],
            "/nowhere",
        ),
    ],
)
def test_unusable_options_exit_with_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake is one line on standard error that names it, without a traceback."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("content", [b"seed: [1", b"seed: '\xff'", b"- seed"])
def test_an_unreadable_config_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """A config file that holds no options gives one line on standard error that names the file."""
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert main([*SELECT, "--config", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--config {file}: " in line


@pytest.mark.parametrize("out", ["file", "file/folder"])
def test_a_file_in_the_place_of_the_output_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """The line names the path and says what was expected there."""
    (tmp_path / "table.csv").write_text("key,transcript\na,yes\n")
    (tmp_path / "file").write_text("in the way")
    command = [
        "import",
        str(tmp_path / "table.csv"),
        "--root",
        str(tmp_path),
        "--out",
        str(tmp_path / out),
    ]

    assert main(command) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / out}: got a file, expected a folder" in line


def test_main_help_imports_no_heavy_package() -> None:
    """`emostream --help` answers without importing torch or Ray."""
    code = (
        "import sys, cluster.cli as c\ntry: c.main(['--help'])\nfinally: print({'torch', 'ray'} & "
        "set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip().endswith("set()")


def test_former_spellings_are_taken_with_a_warning(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Former spellings work as flags, in --set and in groups; the help hides them."""
    evaluate = ["evaluate", "--checkpoint", "c", "--shards", "s", "--out", "o"]
    assert (
        main([*evaluate, "--neighbours", "7", "--colour-by", "sex", "age", "--print-config"]) == 0
    )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["neighbors"], printed["color_by"]) == (7, ["sex", "age"])
    assert "options.neighbours is now called neighbors" in caplog.text

    assert main([*TRAIN, "--set", "model.normalise_codes=true", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["normalize_codes"] is True
    assert "options.model.normalise_codes is now called normalize_codes" in caplog.text

    assert main([*evaluate, "--neighbours", "7", "--neighbors", "8", "--print-config"]) == 2
    assert (
        "got neighbors and its former name neighbours; leave neighbours out"
        in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "neighbours" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "finetune", "--shards", "s"],
        ["evaluate", "--checkpoint", "c", "--shards", "s"],
        ["probe", "--features", "f", "--shards", "s", "--folds", "split"],
        ["convert", "pytorch_model.bin"],
        ["demo"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_must_be_local_is_no_url(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is written file by file would end in a new local folder `s3:`, with exit status 0."""
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--out", "s3://bucket/run"]) == ExitStatus.USAGE
    assert (
        "--out: got s3://bucket/run, expected a folder of this machine" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
