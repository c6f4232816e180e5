"""dev.py makes an environment once, knows a finished one, and runs the commands in it."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dev

ROOT = Path(dev.__file__).resolve().parent


class Commands:
    """Stands for a shell: remembers the commands, makes the Python that `venv` makes, fails on demand."""

    def __init__(self, fail_on="nothing fails"):
        self.seen, self.fail_on = [], fail_on

    def __call__(self, command):
        self.seen.append(command[1:])
        if self.fail_on in command:
            return 1
        if command[1:3] == ["-m", "venv"]:
            python = dev.python_in(Path(command[3]))
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        return 0


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for name in dev.REQUIREMENTS:
        (folder / name).write_text("something==1.0\n", encoding="utf-8")
    return folder


def test_a_fresh_environment_gets_torch_then_the_rest_then_those_without_dependencies(root):
    commands = Commands()
    python = dev.ensure_venv(root / ".venv", root, commands)
    assert python.exists()
    venv, torch, rest, bare = commands.seen
    assert venv[1] == "venv"
    assert torch[-1:] == ["torch==2.13.0"]
    assert rest[-2:] == ["-r", str(root / "requirements.txt")]
    assert bare[-3:] == ["--no-deps", "-r", str(root / "requirements-nodeps.txt")]


def test_a_finished_environment_is_used_as_it_is(root):
    dev.ensure_venv(root / ".venv", root, Commands())
    again = Commands()
    dev.ensure_venv(root / ".venv", root, again)
    assert again.seen == []


def test_changed_requirements_are_installed_into_the_same_environment(root):
    dev.ensure_venv(root / ".venv", root, Commands())
    (root / "requirements.txt").write_text("something==1.1\n", encoding="utf-8")
    again = Commands()
    dev.ensure_venv(root / ".venv", root, again)
    assert len(again.seen) == 3
    assert all(command[1] == "pip" for command in again.seen)


def test_other_line_endings_are_the_same_requirements(root):
    before = dev.stamp_for(root)
    (root / "requirements.txt").write_bytes(b"something==1.0\r\n")
    assert dev.stamp_for(root) == before


@pytest.mark.parametrize("fail_on", ["venv", dev.TORCH, "--no-deps"])
def test_a_half_made_environment_is_made_again(root, fail_on):
    venv = root / ".venv"
    with pytest.raises(dev.Stop):
        dev.ensure_venv(venv, root, Commands(fail_on))
    left_over = venv / "left-over"
    left_over.touch()
    again = Commands()
    dev.ensure_venv(venv, root, again)
    assert len(again.seen) == 4
    assert not left_over.exists()


def test_another_pythons_environment_is_made_again(root):
    venv = root / ".venv"
    dev.ensure_venv(venv, root, Commands())
    stamp = (venv / dev.STAMP).read_text(encoding="utf-8")
    (venv / dev.STAMP).write_text(stamp.replace("python 3.", "python 2."), encoding="utf-8")
    again = Commands()
    dev.ensure_venv(venv, root, again)
    assert len(again.seen) == 4


def test_an_environment_whose_python_is_gone_is_made_again(root):
    python = dev.ensure_venv(root / ".venv", root, Commands())
    python.unlink()
    again = Commands()
    dev.ensure_venv(root / ".venv", root, again)
    assert len(again.seen) == 4


def test_a_folder_that_dev_did_not_make_is_left_alone(root):
    folder = root / "mine"
    folder.mkdir()
    (folder / "precious").touch()
    commands = Commands()
    with pytest.raises(dev.Stop, match="was not made by dev.py"):
        dev.ensure_venv(folder, root, commands)
    assert commands.seen == []
    assert [entry.name for entry in folder.iterdir()] == ["precious"]


def test_two_runs_at_once_make_one_environment(root):
    both, made = threading.Barrier(2), []

    def run():
        commands = Commands()
        both.wait()
        dev.ensure_venv(root / ".venv", root, commands)
        made.append(len(commands.seen))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [0, 4]


def test_the_environments_folder_can_be_named(tmp_path):
    assert dev.venv_folder({}) == ROOT / ".venv"
    assert dev.venv_folder({"PERSRES_VENV": str(tmp_path)}) == tmp_path


def test_an_old_python_is_told_what_is_needed():
    with pytest.raises(SystemExit, match=r"needs Python 3\.10 or newer; this is Python 3\.9\."):
        dev.check_python((3, 9, 18))
    dev.check_python((3, 10, 0))


def test_an_old_python_can_read_the_file_up_to_that_sentence():
    ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_dev_needs_the_standard_library_only():
    tree = ast.parse((ROOT / "dev.py").read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_requirements_are_pinned_and_name_no_address():
    for name in dev.REQUIREMENTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                assert "==" in line.split(";")[0], f"{name}: {line}"
                assert "://" not in line and not line.startswith("-"), f"{name}: {line}"


def test_tests_run_the_checks_then_pytest_in_two_processes_and_the_webuis_in_one(tmp_path):
    python = ["python", "-m"]
    *checks, unit, oldest = dev.commands_for("test", [], Path("python"), webui=None)
    assert checks[0] == ({}, [*python, "ruff", "check", "."])
    assert [command[2:4] for _, command in checks[1:]] == [["ruff", "format"], ["mypy"]]
    assert unit == ({}, [*python, "pytest", "-q", "--ignore=tests/webui", "-n", "2", "--dist", "worksteal"])
    with_webui = dev.commands_for("test", [], Path("python"), webui=tmp_path)
    assert with_webui == [*checks, unit, oldest, ({}, [*python, "pytest", "-q", "tests/webui"])]


def test_the_tests_that_compare_numbers_run_once_more_with_the_kernels_of_the_oldest_processors():
    *_, (settings, command) = dev.commands_for("test", [], Path("python"), webui=None)
    assert settings == dev.OLDEST and command[4:10] == ["-n", "2", "--dist", "worksteal", "-m", "numerics"]
    files = command[10:]
    wanted = {"tests/unit/test_branch.py", "tests/unit/training/test_trainer.py", "tests/unit/test_shipped.py"}
    assert wanted < set(files)
    assert "tests/unit/test_dev.py" not in files and files == sorted(files)
    assert all((ROOT / name).is_file() for name in files)


def test_with_arguments_there_is_one_pytest_that_has_them(tmp_path):
    *_, (_, pytest_) = dev.commands_for("test", ["-k", "lag"], Path("python"), webui=None)
    assert pytest_ == ["python", "-m", "pytest", "-q", "--ignore=tests/webui", "-k", "lag"]
    *_, (_, pytest_) = dev.commands_for("test", ["-k", "lag"], Path("python"), webui=tmp_path)
    assert pytest_ == ["python", "-m", "pytest", "-q", "-k", "lag"]


@pytest.mark.parametrize("name", dev.MODULES)
def test_the_other_commands_run_a_module_with_the_arguments(name):
    assert dev.commands_for(name, ["a", "--b"], Path("python"), None) == [
        ({}, ["python", "-m", dev.MODULES[name], "a", "--b"])
    ]


def test_a_python_that_is_given_is_used_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(dev, "ensure_venv", None)
    monkeypatch.setitem(dev.MODULES, "demo", "this")
    assert dev.main(["demo"], {**os.environ, "PERSRES_PYTHON": sys.executable}) == 0
    assert "Beautiful is better than ugly" in capfd.readouterr().out
    assert dev.main(["demo"], {**os.environ, "PERSRES_PYTHON": str(tmp_path / "python")}) == 2
    assert "is no program that can be run" in capfd.readouterr().err


def test_a_webui_checkout_is_known_by_its_files(tmp_path):
    assert dev.webui_folder({}) is None
    with pytest.raises(dev.Stop, match="no WebUI checkout"):
        dev.webui_folder({"PERSRES_WEBUI": str(tmp_path)})
    (tmp_path / "modules").mkdir()
    (tmp_path / "webui.py").touch()
    (tmp_path / "modules" / "processing.py").touch()
    assert dev.webui_folder({"PERSRES_WEBUI": str(tmp_path)}) == tmp_path


def test_a_wrong_webui_folder_ends_the_run_before_anything_is_installed(tmp_path, capfd):
    venv = tmp_path / "venv"
    assert dev.main(["test"], {"PERSRES_WEBUI": str(tmp_path), "PERSRES_VENV": str(venv)}) == 2
    assert "no WebUI checkout" in capfd.readouterr().err
    assert not venv.exists()


@pytest.mark.parametrize("arguments, status", [([], 2), (["tests"], 2), (["--help"], 0)])
def test_without_a_command_the_usage_is_shown(arguments, status, capsys):
    assert dev.main(arguments, {}) == status
    shown = capsys.readouterr()
    assert "python dev.py demo" in (shown.err if status else shown.out)


def test_a_commands_exit_status_is_passed_on():
    assert dev.run([sys.executable, "-c", "raise SystemExit(5)"], dict(os.environ)) == 5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to die of")
def test_a_killed_commands_status_is_the_shells():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert dev.run([sys.executable, "-c", code], dict(os.environ)) == 137


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_the_ci_script_runs_the_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "dev.py test" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)
