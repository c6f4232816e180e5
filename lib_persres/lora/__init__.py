"""LoRA files of other programs: read into factors, and written from ours."""
