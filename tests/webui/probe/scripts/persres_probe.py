"""A WebUI extension for the tests alone: what hangs on the UNets, which tokens the maps are of, masks of ones, and a
generation that breaks where it is told to."""

import sys

import torch
from fastapi import Body
from modules import script_callbacks, scripts, sd_models, shared, ui_extra_networks

# lib_persres is imported late: it is on the path only once its own extension was loaded


def host():
    from lib_persres.webui.host import HOST

    return HOST


def unet():
    return host().unet(host().model())


def ours() -> list[str]:
    """The hooks of lib_persres on the UNets of all models in memory and everything in them."""
    found = []
    for model in getattr(sd_models.model_data, "loaded_sd_models", None) or [host().model()]:
        for name, module in host().unet(model).named_modules():
            for kind in ("_forward_hooks", "_forward_pre_hooks"):
                for hook in getattr(module, kind).values():
                    if getattr(hook, "__module__", "").startswith("lib_persres"):
                        found.append(f"{name} {kind}")
    return found


class Breaking:
    """Raises or interrupts in the middle of a UNet's forward, in its n-th call from now, once; in a module that every
    host calls as one."""

    handle = None

    def arm(self, how: str, calls: int):
        self.how, self.left = how, calls
        self.handle = unet().middle_block[1].proj_in.register_forward_pre_hook(self)
        self.seen = []

    def __call__(self, module, args):
        self.left -= 1
        if self.left == 0:
            self.seen = ours()
            self.handle.remove()
            if self.how == "raise":
                raise RuntimeError("broken by the test")
            getattr(shared.state, self.how)()


BREAKING = Breaking()


class Calls:
    """The number of rows of each call of the UNet."""

    def __init__(self):
        self.rows = []
        self.handle = None

    def watch(self):
        if self.handle:
            self.handle.remove()
        self.rows = []
        self.handle = unet().register_forward_pre_hook(lambda module, args: self.rows.append(len(args[0])))

    def stop(self):
        self.handle.remove()
        self.handle = None
        return self.rows


CALLS = Calls()


class Marked:
    """Of which tokens LAG made its maps: the indices of each map row and concept, each answer once."""

    def watch(self):
        from lib_persres import attention, lag

        self.found = []
        self.original = attention.concept_maps
        lag.concept_maps = self

    def __call__(self, q, k, indicator, heads):
        marked = [[row.nonzero().flatten().tolist() for row in image] for image in indicator]
        if marked not in self.found:
            self.found.append(marked)
        return self.original(q, k, indicator, heads)

    def stop(self):
        from lib_persres import lag

        lag.concept_maps = self.original
        return self.found


MARKED = Marked()


OWN_MASKS: dict = {}


def masks_of_ones(on: int):
    from lib_persres import masks

    for name, own in list(masks.MASKS.items()):
        OWN_MASKS.setdefault(name, own)
        masks.MASKS[name] = (lambda: masks.PerBlock(torch.ones_like)) if on else OWN_MASKS[name]


def first_difference(a: str, b: str) -> int:
    """The first vector in which the model's contexts of two texts differ. Its text encoder looks back only."""
    with torch.inference_mode():  # as the host moves what it reads with
        rows = [host().conditioning(host().model(), [text], 64).context[0] for text in (a, b)]
    return int(((rows[0] - rows[1]).abs().amax(-1) > 1e-4).nonzero()[0])


class PromptOfEachImage(scripts.Script):
    """Gives the images of a batch prompts of their own, as extensions for random prompts do."""

    def title(self):
        return "Persres probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        if "||" in p.prompt:
            p.all_prompts = p.prompt.split("||")


class Weight:
    """A number of the model's that is not finite, until it is put back."""

    def spoil(self, part: str):
        model = host().model()
        text = host().text_encoder(model)
        text = getattr(text, "text_encoder", text)  # Forge's reader has it
        modules = {"unet": unet(), "text": text, "vae": host().autoencoder(model)}
        ends = ("norm_out.weight", "out.0.weight", "final_layer_norm.weight")
        self.weight = [w for name, w in modules[part].named_parameters() if name.endswith(ends)][-1]
        self.before = self.weight.data.clone()
        with torch.inference_mode():  # as some hosts made it
            self.weight.data.fill_(float("nan"))

    def restore(self):
        with torch.inference_mode():
            self.weight.data.copy_(self.before)


WEIGHT = Weight()


class Split:
    """A card without room for two rows' chunks in one call of the UNet, where a host's sampler asks for that."""

    own = None

    def set(self, on: int):
        kind = type(host().model().forge_objects.unet.model)
        kind = next(each for each in kind.__mro__ if "memory_required" in vars(each))
        self.own = self.own or kind.memory_required

        def required(model, *args, **kwargs):
            asks = sys._getframe(1).f_code.co_name in ("calc_cond_uncond_batch", "_calc_cond_batch")
            return float("inf") if asks else self.own(model, *args, **kwargs)

        kind.memory_required = required if on else self.own


SPLIT = Split()


def attention():
    """The one in use, where it is chosen at run time."""
    try:
        from modules import sd_hijack
    except ImportError:  # Forge Neo
        return None
    return getattr(sd_hijack.model_hijack, "optimization_method", None)


def nan_check(on: int):
    shared.cmd_opts.disable_nan_check = not on


def cards():
    """The page of residuals is made anew, as its Refresh button does it."""
    page = next(page for page in ui_extra_networks.extra_pages if page.name == "residuals")
    page.refresh()
    return page.create_html("txt2img")


def name_checkpoint(digest: str):
    """The loaded checkpoint's SHA-256, which --no-hashing leaves unknown."""
    shared.sd_model.sd_checkpoint_info.sha256 = None if digest == "none" else digest


def routes(_, app):
    app.get("/probe/hooks")(lambda: ours())
    app.post("/probe/break/{how}/{calls}")(lambda how, calls: BREAKING.arm(how, int(calls)))
    app.get("/probe/broken")(lambda: BREAKING.seen)
    app.post("/probe/reload")(lambda: shared.state.request_restart())
    app.post("/probe/watch")(lambda: CALLS.watch())
    app.post("/probe/cards")(cards)
    app.post("/probe/calls")(lambda: CALLS.stop())
    app.post("/probe/watch-tokens")(lambda: MARKED.watch())
    app.post("/probe/tokens")(lambda: MARKED.stop())
    app.post("/probe/ones/{on}")(lambda on: masks_of_ones(int(on)))
    app.post("/probe/first-difference")(lambda body=Body(): first_difference(body["a"], body["b"]))  # noqa: B008
    app.post("/probe/checkpoint/{digest}")(name_checkpoint)
    app.post("/probe/spoil/{part}")(lambda part: WEIGHT.spoil(part))
    app.post("/probe/restore")(lambda: WEIGHT.restore())
    app.post("/probe/nan-check/{on}")(lambda on: nan_check(int(on)))
    app.get("/probe/attention")(attention)
    app.post("/probe/split/{on}")(lambda on: SPLIT.set(int(on)))


script_callbacks.on_app_started(routes)
