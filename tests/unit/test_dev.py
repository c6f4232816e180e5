"""dev.py makes an environment once and knows a finished one; figures are measured, printed and recorded."""

import ast
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dev
from lib_persres import figures

ROOT = Path(dev.__file__).resolve().parent


# -- dev.py --------------------------------------------------------------------------------------------------


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


def test_tests_run_ruff_then_pytest_in_two_processes_and_the_webuis_in_one(tmp_path):
    python = ["python", "-m"]
    ruff, unit = dev.commands_for("test", [], Path("python"), webui=None)
    assert ruff == [*python, "ruff", "check", "."]
    assert unit == [*python, "pytest", "-q", "--ignore=tests/webui", "-n", "2", "--dist", "worksteal"]
    with_webui = dev.commands_for("test", [], Path("python"), webui=tmp_path)
    assert with_webui == [ruff, unit, [*python, "pytest", "-q", "tests/webui"]]


def test_with_arguments_there_is_one_pytest_that_has_them(tmp_path):
    _, pytest_ = dev.commands_for("test", ["-k", "lag"], Path("python"), webui=None)
    assert pytest_ == ["python", "-m", "pytest", "-q", "--ignore=tests/webui", "-k", "lag"]
    _, pytest_ = dev.commands_for("test", ["-k", "lag"], Path("python"), webui=tmp_path)
    assert pytest_ == ["python", "-m", "pytest", "-q", "-k", "lag"]


@pytest.mark.parametrize("name", ["demo", "figures"])
def test_the_other_commands_run_a_module_with_the_arguments(name):
    assert dev.commands_for(name, ["a", "--b"], Path("python"), None) == [
        ["python", "-m", f"lib_persres.{name}", "a", "--b"]
    ]


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


# -- figures -------------------------------------------------------------------------------------------------


REGISTRY = (
    figures.Figure("a.share", ">= 0.90", "a share", "one:both"),
    figures.Figure("a.drop", "<= 0.05", "a drop", "one:both"),
    figures.Figure("b.count", "== 3", "a count", "two:count"),
    figures.Figure("c.broken", ">= 1", "never comes", "three:broken"),
)


class Measures:
    """Stands for the imports: "module:function" to a function that counts its calls."""

    def __init__(self, **values):
        self.calls = []
        self.values = {
            "one:both": {"a.share": 0.95, "a.drop": (0.07, "smaller form")},
            "two:count": {"b.count": 3},
        }
        self.values.update({name.replace("__", ":"): value for name, value in values.items()})

    def __call__(self, target):
        def function():
            self.calls.append(target)
            print("noise of a measurement")
            if target not in self.values:
                raise RuntimeError("no such luck")
            return self.values[target]

        return function


@pytest.fixture
def measured(tmp_path):
    """run(*arguments) -> (status, printed JSON objects, record, the measures called)."""
    path = tmp_path / "docs" / "figures.json"

    def run(*arguments, measures=None):
        measures, out = measures or Measures(), io.StringIO()
        status = figures.main(arguments, REGISTRY, path, measures, out)
        return status, [json.loads(line) for line in out.getvalue().splitlines()], path, measures.calls

    return run


def test_figures_of_one_measurement_are_measured_once(measured):
    status, lines, _, calls = measured("a.drop", "a.share", "b.count")
    assert status == 0
    assert calls == ["one:both", "two:count"]
    values = [(line["name"], line["value"]) for line in lines]
    assert values == [("a.share", 0.95), ("a.drop", 0.07), ("b.count", 3)]
    assert all(line["seconds"] >= 0 for line in lines)
    assert [line.get("note") for line in lines] == [None, "smaller form", None]


def test_only_json_lines_reach_the_standard_output(capsys, tmp_path):
    figures.main(["a.*"], REGISTRY, tmp_path / "figures.json", Measures())
    shown = capsys.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == ["a.share", "a.drop"]
    assert "noise" in shown.err


def test_patterns_choose_figures_in_the_registrys_order():
    chosen, unknown = figures.select(["b.*", "a.s*", "x.*"], REGISTRY)
    assert [figure.name for figure in chosen] == ["a.share", "b.count"]
    assert unknown == ["x.*"]


def test_an_unknown_name_is_refused_before_anything_is_measured(measured, capsys):
    status, lines, _, calls = measured("a.share", "a.shore")
    assert (status, lines, calls) == (2, [], [])
    shown = capsys.readouterr().err
    assert "There is no figure 'a.shore'" in shown and "b.count" in shown


def test_a_failure_is_a_line_and_the_others_are_measured_all_the_same(measured):
    status, lines, _, _ = measured("c.broken", "b.count")
    assert status == 1
    assert {line["name"]: line.get("error") for line in lines} == {
        "b.count": None,
        "c.broken": "RuntimeError: no such luck",
    }
    assert "value" not in lines[1]


@pytest.mark.parametrize(
    "returned, error",
    [
        ({}, "did not measure it"),
        (3, "returned int"),
        ({"b.count": float("nan")}, "not a finite number"),
        ({"b.count": None}, "not a finite number"),
    ],
)
def test_a_measurement_that_gives_no_number_is_a_failure(measured, returned, error):
    status, lines, _, _ = measured("b.count", measures=Measures(two__count=returned))
    assert status == 1
    assert error in lines[0]["error"]


def test_numpy_numbers_are_numbers(measured):
    numpy = pytest.importorskip("numpy")
    _, lines, _, _ = measured("b.count", measures=Measures(two__count={"b.count": numpy.float32(0.5)}))
    assert lines[0]["value"] == 0.5


def test_values_are_recorded_only_when_asked(measured):
    _, _, path, _ = measured("a.*")
    assert not path.exists()
    measured("a.*", "--record")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record) == [figure.name for figure in REGISTRY]
    assert record["a.drop"]["value"] == 0.07
    assert record["a.drop"]["note"] == "smaller form"
    assert record["a.drop"]["goal"] == "<= 0.05"
    assert record["a.drop"]["command"] == "python dev.py figures a.drop --record"
    assert len(record["a.drop"]["date"]) == len("2000-01-01")
    assert record["b.count"]["value"] is None


def test_a_failure_leaves_the_last_recorded_value(measured):
    measured("b.count", "--record")
    status, _, path, _ = measured("b.count", "--record", measures=Measures(two__count={}))
    assert status == 1
    assert json.loads(path.read_text(encoding="utf-8"))["b.count"]["value"] == 3


def test_a_new_measurement_forgets_the_old_note(measured):
    measured("a.drop", "--record")
    _, _, path, _ = measured("a.drop", "--record", measures=Measures(one__both={"a.drop": 0.01}))
    assert "note" not in json.loads(path.read_text(encoding="utf-8"))["a.drop"]


def test_without_names_every_figure_is_listed_with_its_last_value(measured, tmp_path):
    measured("a.*", "--record")
    out, measures = io.StringIO(), Measures()
    assert figures.main([], REGISTRY, tmp_path / "docs" / "figures.json", measures, out) == 0
    assert measures.calls == []
    header, share, drop, count, broken = out.getvalue().splitlines()
    assert share.split()[:5] == ["a.share", ">=", "0.90", "0.95", "yes"]
    assert drop.split()[:5] == ["a.drop", "<=", "0.05", "0.07", "no"]
    assert count.split()[:6] == ["b.count", "==", "3", "-", "-", "never"]
    column = header.index("meaning")
    assert [line[column:] for line in (share, broken)] == ["a share", "never comes"]


@pytest.mark.parametrize(
    "text, value, reached",
    [
        (">= 0.5", 0.5, True),
        (">= 0.5", 0.49, False),
        ("<= 1", 1.1, False),
        ("== 3", 3, True),
        ("== 3", 4, False),
    ],
)
def test_goals_are_bounds(text, value, reached):
    assert figures.Goal.parse(text).reached(value) is reached


def test_the_projects_figures_are_well_formed_and_recorded_with_their_goals():
    record = figures.read_record(figures.RECORD)
    assert list(record) == [figure.name for figure in figures.FIGURES]
    for figure in figures.FIGURES:
        assert figure.goal.operator in figures.OPERATORS
        assert figure.measure.count(":") == 1
        assert record[figure.name]["goal"] == figure.goal_text
