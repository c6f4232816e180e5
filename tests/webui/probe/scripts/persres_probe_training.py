"""What a training might leave behind on the WebUI's model and its random numbers."""

import hashlib
import pickle
import random

import numpy as np
import torch
from modules import script_callbacks, shared

try:
    from modules import lowvram
except ImportError:
    lowvram = None


def parts():
    """The model, as one module."""
    from lib_persres.webui.host import HOST

    model = HOST.model()
    if isinstance(model, torch.nn.Module):
        return model
    text = torch.nn.ModuleList(reader.text_encoder for reader in HOST.readers(model).values())
    return torch.nn.ModuleDict({"unet": HOST.unet(model), "text": text, "vae": HOST.autoencoder(model)})


def state():
    model = parts()
    weights = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        # as bytes, since NumPy has no bfloat16
        weights.update(name.encode() + weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = [each.numpy().tobytes() for each in (torch.get_rng_state(), *cards)]
    numbers = (random.getstate(), np.random.get_state()[1].tobytes(), states)
    return {
        "weights": weights.hexdigest(),
        "learning": [name for name, weight in model.named_parameters() if weight.requires_grad],
        "gradients": [name for name, weight in model.named_parameters() if weight.grad is not None],
        "training": [name for name, module in model.named_modules() if module.training],
        "hooks": {
            name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.named_modules()
        },
        "random": hashlib.sha256(pickle.dumps(numbers)).hexdigest(),
        "inference": sorted(name for name, weight in model.named_parameters() if weight.is_inference()),
        "on card": lowvram is not None and lowvram.module_in_gpu is not None,
        "job": [shared.state.job, shared.state.job_count, shared.state.interrupted, shared.state.skipped],
    }


class Memory:
    """A card that has memory for so many rows with gradients; 0 rows: as many as there are."""

    def limit(self, rows: int):
        if rows == 0:
            return self.handle.remove()

        def check(module, args):
            if torch.is_grad_enabled() and len(args[0]) > rows:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        from lib_persres.webui.host import HOST

        self.handle = HOST.unet(HOST.model()).register_forward_pre_hook(check)


MEMORY = Memory()


def routes(_, app):
    app.get("/probe/state")(state)
    app.post("/probe/memory/{rows}")(lambda rows: MEMORY.limit(int(rows)))


script_callbacks.on_app_started(routes)
