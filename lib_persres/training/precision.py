"""The numbers that a training may compute in; light, so that `--help` need not wait for torch."""

PRECISIONS = ("float32", "bfloat16", "float16")
