"""How many of the papers' orderings a run of the suite "toybox" reproduces."""

from __future__ import annotations

import os
from pathlib import Path

from lib_persres.commands import main
from lib_persres.evaluation.report.orderings import orderings
from lib_persres.evaluation.report.results import Results
from lib_persres.evaluation.run_folder import RunFolder

FOLDER = "outputs/evaluation-toybox"


def figures() -> dict[str, tuple[int, str]]:
    """The run is in PERSRES_EVALUATION, else in outputs/evaluation-toybox; what it lacks is done first."""
    folder = Path(os.environ.get("PERSRES_EVALUATION") or FOLDER)
    if main(["evaluate", "run", "--suite", "toybox", "--out", str(folder)]):
        raise RuntimeError("the evaluation broke off")
    results = Results.read(RunFolder(folder))
    tested = orderings(results.counted, results.suite.orderings)
    verdicts = [each.verdict for each in tested]
    told = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    return {"tables.reproduced": (verdicts.count("reproduced"), f"of {len(tested)}: {told}; see docs/evaluation.md")}
