"""The project's commands; each makes its own virtual environment the first time and runs inside it.

    python dev.py demo [ARGUMENTS...]     learn a concept, draw it, show pictures and scores on one page
    python dev.py test [ARGUMENTS...]     ruff and mypy, then pytest; the arguments are pytest's, such as -k lag
    python dev.py figures [NAME...]       list the figures of docs/figures.md, or measure some again
    python dev.py cuda [ARGUMENTS...]     all that waits for a card, in at most nine minutes; a report in a folder

Every command runs in the project's folder. `python dev.py demo --help`, and so for figures and cuda, says more.
`test` without arguments runs some tests once more, with the kernels of the oldest processors: those of files that take
bounds from tests/helpers/rounding.py which compare within a bound or to the bit. Other kernels could decide no other.
Three environment variables are read:

    PERSRES_VENV     the folder of the virtual environment; else .venv beside this file
    PERSRES_PYTHON   a Python that has all that is needed, such as torch for CUDA: no environment is made
    PERSRES_WEBUI    a checkout of the AUTOMATIC1111 WebUI; with it the tests in tests/webui run, too
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def check_python(version):
    """Stop with one sentence under an old Python; nothing above this line may need a new one."""
    if tuple(version[:2]) < (3, 10):
        sys.exit(f"This project needs Python 3.10 or newer; this is Python {version[0]}.{version[1]}.")


check_python(sys.version_info)

ROOT = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
REQUIREMENTS = ("requirements.txt", "requirements-nodeps.txt")
STAMP = "persres-stamp.txt"
MAKING = "being made\n"
OLDEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What makes the libraries below torch compute as on a processor with little; these are their names."""


class Stop(Exception):
    """Ends the run; the text is one sentence for the user."""


def say(text: str) -> None:
    # stderr, because the standard output of `figures` is read by programs
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


# -- the virtual environment ---------------------------------------------------------------------------------


def venv_folder(environment) -> Path:
    return Path(os.path.abspath(environment.get("PERSRES_VENV") or ROOT / ".venv"))


def python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_for(root: Path) -> str:
    """What a finished environment was made of: a line for the Python, a line for the requirements."""
    requirements = hashlib.sha256(TORCH.encode())
    for name in REQUIREMENTS:
        # as text: a checkout with other line endings has the same requirements
        requirements.update((root / name).read_text(encoding="utf-8").encode())
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return f"python {python} on {sys.platform}\nrequirements {requirements.hexdigest()}\n"


def state_of(folder: Path, wanted: str) -> str:
    """One of absent, ready, outdated (other requirements), unusable (half-made, another Python), foreign."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return "absent"
    try:
        stamp = (folder / STAMP).read_text(encoding="utf-8")
    except OSError:
        return "foreign"
    # exists() is False as well for a link to a Python that was uninstalled
    if not python_in(folder).exists() or stamp.splitlines()[:1] != wanted.splitlines()[:1]:
        return "unusable"
    return "ready" if stamp == wanted else "outdated"


def given_python(environment) -> Path | None:
    """The Python that PERSRES_PYTHON names, by a path or as a command; None without it."""
    name = environment.get("PERSRES_PYTHON")
    if not name:
        return None
    found = shutil.which(name)
    if found is None:
        raise Stop(f"PERSRES_PYTHON names {name}, which is no program that can be run: correct or unset it.")
    return Path(os.path.abspath(found))


def ensure_venv(folder: Path, root: Path, run) -> Path:
    """Make `folder` a finished environment if it is not one; its Python.

    run(command) -> exit status. The stamp is the first thing written and becomes valid with the last, so a
    run that was killed in between leaves a folder that the next run knows to be half-made, and its to delete.
    """
    wanted = stamp_for(root)
    if state_of(folder, wanted) == "ready":
        return python_in(folder)
    with locked(folder.with_name(folder.name + ".lock")):
        found = state_of(folder, wanted)
        if found == "ready":  # made by the run that held the lock
            return python_in(folder)
        if found == "foreign":
            raise Stop(
                f"{folder} was not made by dev.py, so it is left alone: "
                "remove it, or name another folder in the environment variable PERSRES_VENV."
            )
        if found == "unusable":
            if folder.resolve() == Path(sys.prefix).resolve():
                raise Stop(f"{folder} has to be made again: run dev.py with the Python outside of it.")
            say(f"{folder} is half-made or belongs to another Python; making it again")
            remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_stamp(folder, MAKING)
        if found != "outdated":
            say(f"making a virtual environment in {folder}")
            # git and ruff leave it alone, wherever it is
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            if run([sys.executable, "-m", "venv", str(folder)]):
                raise Stop(
                    "The virtual environment could not be made; the lines above say why "
                    "(on Debian and Ubuntu the package python3-venv may be missing)."
                )
        install(python_in(folder), root, run)
        write_stamp(folder, wanted)
        say("everything is installed")
    return python_in(folder)


def install(python: Path, root: Path, run) -> None:
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    steps = (
        (f"{TORCH} (the large one: minutes, depending on the network)", [TORCH]),
        (REQUIREMENTS[0], ["-r", str(root / REQUIREMENTS[0])]),
        (REQUIREMENTS[1], ["--no-deps", "-r", str(root / REQUIREMENTS[1])]),
    )
    for number, (what, arguments) in enumerate(steps, 1):
        say(f"installing {number} of {len(steps)}: {what}")
        if run([*pip, *arguments]):
            raise Stop(
                f"pip could not install {what.split(' ')[0]}; its lines above say why. The same command tries again."
            )


def write_stamp(folder: Path, text: str) -> None:
    new = folder / (STAMP + ".new")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, folder / STAMP)


def remove(folder: Path) -> None:
    """Delete an environment, its stamp last, so that a killed deletion is known for what it is."""
    for entry in folder.iterdir():
        if entry.name == STAMP:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (folder / STAMP).unlink()


@contextlib.contextmanager
def locked(path: Path):
    """Hold the lock file `path`; the system releases it when this process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        waiting = False
        while True:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if not waiting:
                    say("another run is making the virtual environment; waiting for it")
                waiting = True
                time.sleep(1)
        yield


# -- the commands --------------------------------------------------------------------------------------------


def webui_folder(environment) -> Path | None:
    """The WebUI checkout that PERSRES_WEBUI names, or None."""
    name = environment.get("PERSRES_WEBUI")
    if not name:
        return None
    folder = Path(os.path.abspath(name))
    for part in ("webui.py", "modules/processing.py"):
        if not (folder / part).is_file():
            raise Stop(
                f"PERSRES_WEBUI names {folder}, which is no WebUI checkout: it has no {part}. "
                "Correct the variable, or unset it to leave out tests/webui."
            )
    return folder


CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "--quiet", "."], ["mypy"])
MODULES = {"demo": "lib_persres.commands.demo", "figures": "benchmarks.figures", "cuda": "benchmarks.cuda"}

Step = tuple[dict[str, str], list[str]]
"""(environment, command line)"""


def numerics(root: Path) -> list[str]:
    """The test files that take a bound from tests/helpers/rounding.py, by their paths in the project."""
    files = sorted((root / "tests" / "unit").rglob("test_*.py"))
    return [
        path.relative_to(root).as_posix()
        for path in files
        if "\nfrom rounding import " in path.read_text(encoding="utf-8")
    ]


def commands_for(name: str, arguments: list[str], python: Path, webui: Path | None) -> list[Step]:
    """One command of ours: what is to be run, until one fails."""
    if name in MODULES:
        return [({}, [str(python), "-m", MODULES[name], *arguments])]
    checks: list[Step] = [({}, [str(python), "-m", *check]) for check in CHECKS]
    pytest = [str(python), "-m", "pytest", "-q"]
    if arguments:
        return [*checks, ({}, [*pytest, *([] if webui else ["--ignore=tests/webui"]), *arguments])]
    two = ["-n", "2", "--dist", "worksteal"]
    unit: Step = ({}, [*pytest, "--ignore=tests/webui", *two])
    oldest = (OLDEST, [*pytest, *two, "-m", "numerics", *numerics(ROOT)])
    return [*checks, unit, oldest, *([({}, [*pytest, "tests/webui"])] if webui else [])]  # one WebUI, so one process


def run(command: list, environment: dict, stdout=None) -> int:
    """Run a command in the project's folder; its exit status as a shell would give it."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                pass  # the command was interrupted, too: let it end in its own way
    finally:
        signal.signal(signal.SIGTERM, before)
    return status if status >= 0 else 128 - status


def main(arguments: list, environment) -> int:
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if name != "test" and name not in MODULES:
        print((f"dev.py has no command {name!r}.\n\n" if name else "") + __doc__, file=sys.stderr)
        return 2
    environment = {key: value for key, value in environment.items() if key != "PYTHONHOME"}
    try:
        webui = webui_folder(environment) if name == "test" else None
        python = given_python(environment)
        if webui:
            environment["PERSRES_WEBUI"] = str(webui)
    except Stop as error:
        say(str(error))
        return 2
    try:
        python = python or ensure_venv(
            venv_folder(environment), ROOT, lambda command: run(command, environment, stdout=sys.stderr)
        )
    except Stop as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"the virtual environment could not be made: {error}. PERSRES_VENV can name another folder.")
        return 1
    if name == "test" and not webui:
        say("tests/webui did not run: PERSRES_WEBUI does not name a WebUI checkout.")
    if name == "test":
        environment.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores
    status = 0
    for settings, command in commands_for(name, arguments[1:], python, webui):
        say("running " + " ".join([*(f"{key}={value}" for key, value in settings.items()), *command[1:]]))
        status = run(command, {**environment, **settings})
        if status:
            if "pytest" not in command and name == "test":
                say(f"{command[2]} has complaints, so pytest did not run.")
            break
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
