"""The commands without a server: their help, their completion, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import prefect_loova
from prefect_loova.cli.app import app, run
from prefect_loova.cli.output import short_keys

COMMANDS = ["generate", "batch", "story", "publish", "collect", "resolve", "review", "credits", "simulator"]
COMMANDS += ["playground"]
KEY = "5476" * 16
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the message of a command that fails."""
    if arguments[0] == "playground":  # it has no --json
        return run(arguments), capsys.readouterr().err.strip().partition(": ")[2]
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)["error"]["message"]


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = re.findall(r"(?m)^  ([a-z]+): ", capsys.readouterr().out)
    assert set(COMMANDS) <= set(listed)
    assert {name for name in app if not name.startswith("-")} == set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen_and_has_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    try:
        assert run([command, "--help"]) == 0
    except SystemExit as end:  # the simulator's own
        assert end.code == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"Example: prefect-loova {command} ") for line in lines)


def test_the_help_of_all_commands_loads_neither_prefect_nor_boto3() -> None:
    code = "import sys; from prefect_loova.cli.app import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"prefect", "boto3"} & {*done.stdout.splitlines()[-1].split()}


@pytest.mark.skipif(os.name == "nt", reason="bash")
def test_bash_completes_commands_and_options_after_the_installation(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    install = [sys.executable, "-m", "prefect_loova.cli", "--install-completion", "--shell", "bash", "--output", script]
    subprocess.run(install, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, check=True)
    assert str(script) in (tmp_path / ".bashrc").read_text()

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        code = (
            f"source '{script}'; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _prefect_loova; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert completed("prefect-loova", "ge") == ["generate"]
    assert completed("prefect-loova", "generate", "--dur") == ["--duration"]
    assert {"--days", "--low-below", "--bucket"} <= {*completed("prefect-loova", "credits", "--")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("genrate", "x"), 'Unknown command "genrate"'),
        (("generate",), "generate: PROMPT requires an argument; see prefect-loova generate --help"),
        (("generate", "x", "y"), "unexpected arguments: ['y']"),
        (("generate", "x", "--nope"), "Unknown option: --nope"),
        (("generate", "x", "--bucket"), "--bucket requires an argument"),
        (
            ("batch", "list.csv", "--max-credits", "many"),
            "--max-credits: 'many' was given: must be a number of credits",
        ),
        (("resolve", "abc", "adopt", "task", "--attempt", "x"), '--attempt: unable to convert "x" into int'),
        (("generate", "x"), "bucket: is missing; give --bucket NAME"),
        (
            ("generate", "x", "--bucket", "b", "--credentials", "my block"),
            "credentials: 'my block' was given: a block's",
        ),
        (("generate", "x", "--s3-block", "My Block"), "s3_block: 'My Block' was given"),
        (("publish", "ab", "--name", "{prompt}.mp4"), "name: '{prompt}.mp4' was given: 'prompt' is no field"),
        (("publish", "ab", "--link-seconds", "5"), "--link-seconds: '5' was given: must be a number of seconds, 60 to"),
        (("playground", "--block", "a b"), "block: 'a b' was given: a block's name has lowercase letters"),
    ],
)
def test_wrong_arguments_are_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.setenv("LOOVA_API_KEY", "a-key")
    code, message = refused(capsys, *arguments)
    assert code == 2
    assert says.replace('"', "") in message.replace('"', "")  # cyclopts 4.8 quotes the names of options
    assert "\n" not in message


@pytest.mark.parametrize("command", [("generate", "x", "--simulate"), ("collect", "--simulate")])
def test_a_state_that_is_no_folder_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "state"
    file.write_text("a file")
    for state in (file, file / "below"):
        code, message = refused(capsys, *command, "--state", str(state))
        assert (code, message.endswith("give a folder that can be written")) == (2, True), message


def test_a_list_on_the_web_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOVA_API_KEY", "a-key")
    for command, what in (("batch", "manifest"), ("story", "storyboard")):
        code, message = refused(capsys, command, "https://example.com/list.csv?token=secret", "--bucket", "my-videos")
        assert (code, message) == (
            2,
            f"{what}: https://example.com/list.csv?... was given: must be a local file or an s3:// URI; "
            "download it first",
        )


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_of_the_simulator_is_checked(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit) as end:
        run(["simulator", "--port", port])
    assert end.value.code == 2
    assert f"--port: {port} was given: must be 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("playground",), ("collect", "--bucket", "my-videos")])
def test_a_prefect_server_that_is_gone_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LOOVA_API_KEY", "a-key")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, message = refused(capsys, *command)
    assert code == 1
    assert message.startswith("the Prefect server at http://127.0.0.1:9/api cannot be reached")
    assert "prefect server start" in message


def test_without_the_extra_a_simulation_says_how_to_install_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['python_multipart'] = None\n"
        "from prefect_loova.cli import main; main(['generate', 'x', '--simulate'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "invalid: simulate: the extra [simulator] is not installed: pip install 'prefect-loova[simulator]'\n"
    )


def test_a_key_is_shown_whole_only_where_a_person_copies_it() -> None:
    text = f"job s3://b/loova/{KEY}/record.json\n  prefect-loova resolve {KEY} give-up"
    assert short_keys(text) == f"job s3://b/loova/{KEY[:12]}…/record.json\n  prefect-loova resolve {KEY} give-up"
    assert short_keys(f"keep: {KEY}") == f"keep: {KEY}"
    assert short_keys(f"{KEY}0 and {KEY[:40]}") == f"{KEY}0 and {KEY[:40]}"


@pytest.mark.parametrize("file", sorted((ROOT / "flows").glob("*.py")), ids=lambda file: file.stem)
def test_a_file_to_deploy_has_the_flow_of_the_package_and_is_the_command(file: Path) -> None:
    deployed = runpy.run_path(str(file), run_name="deployed")
    (name,) = deployed["__all__"]
    assert deployed[name] is getattr(prefect_loova, name)
    (command,) = re.findall(r'main\(\["(\w+)", \*sys\.argv\[1:\]\]\)', file.read_text())
    assert command in COMMANDS
    assert f"`prefect-loova {command}`" in file.read_text()


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["flows/report_credits.py"], "credits"),
        (["-m", "prefect_loova.resolve"], "resolve"),
        (["-m", "prefect_loova.playground"], "playground"),
    ],
)
def test_the_former_commands_take_the_same_arguments(words: list[str], command: str) -> None:
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith(f"Usage: prefect-loova {command} ")
