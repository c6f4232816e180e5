"""Processes of Python that begin at once: forks of one that has what takes seconds to import, and nothing of ours."""

import multiprocessing

SLOW = ["torch", "ldm.modules.diffusionmodules.openaimodel", "transformers.models.clip.modeling_clip", "tokenizers"]


def ready():
    """What multiprocessing makes such processes by. Their stand-ins elsewhere, as on Windows, begin as ever."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(SLOW)
    return context
