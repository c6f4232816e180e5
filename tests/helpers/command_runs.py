"""Runs of the commands as from a shell."""

from lib_persres.commands import main

PROMPT = "<persres:rex:0.8> a photo of a V* dog, on sand"


def train(checkpoint, photos, out, *more):
    command = ["train", "--checkpoint", str(checkpoint), "--images", str(photos), "--name", "rex"]
    command += ["--class", "dog", "--out", str(out), "--steps", "2", "--batch", "1", "--crops", "0"]
    return main([*command, "--device", "cpu", *more])


def generate(checkpoint, residual, out, *more, prompt=PROMPT):
    command = ["generate", "--checkpoint", str(checkpoint), "--residuals", str(residual.parent)]
    command += ["--prompt", prompt, "--out", str(out), "--steps", "2", "--device", "cpu", *more]
    return main(command)


def refused(capsys, command):
    """The sentence with which a command ends."""
    assert main([str(part) for part in command]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and error.endswith(".")
    return error
