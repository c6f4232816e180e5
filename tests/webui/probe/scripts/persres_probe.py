"""A WebUI extension for the tests alone: what hangs on the UNet, and a generation that breaks where it is told to."""

from modules import script_callbacks, scripts, shared, ui_extra_networks


def ours() -> list[str]:
    """The hooks of lib_persres on the UNet and everything in it."""
    found = []
    for name, module in shared.sd_model.model.diffusion_model.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            for hook in getattr(module, kind).values():
                if getattr(hook, "__module__", "").startswith("lib_persres"):
                    found.append(f"{name} {kind}")
    return found


class Breaking:
    """Raises or interrupts in the middle of a UNet's forward, in its n-th call from now, once."""

    handle = None

    def arm(self, how: str, calls: int):
        self.how, self.left = how, calls
        self.handle = shared.sd_model.model.diffusion_model.middle_block.register_forward_pre_hook(self)
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
        self.handle = shared.sd_model.model.diffusion_model.register_forward_pre_hook(
            lambda module, args: self.rows.append(len(args[0]))
        )

    def stop(self):
        self.handle.remove()
        self.handle = None
        return self.rows


CALLS = Calls()


class PromptOfEachImage(scripts.Script):
    """Gives the images of a batch prompts of their own, as extensions for random prompts do."""

    def title(self):
        return "Persres probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        if "||" in p.prompt:
            p.all_prompts = p.prompt.split("||")


def cards():
    """The page of residuals is made anew, as its Refresh button does it."""
    page = next(page for page in ui_extra_networks.extra_pages if page.name == "residuals")
    page.refresh()
    return page.create_html("txt2img")


def routes(_, app):
    app.get("/probe/hooks")(lambda: ours())
    app.post("/probe/break/{how}/{calls}")(lambda how, calls: BREAKING.arm(how, int(calls)))
    app.get("/probe/broken")(lambda: BREAKING.seen)
    app.post("/probe/reload")(lambda: shared.state.request_restart())
    app.post("/probe/watch")(lambda: CALLS.watch())
    app.post("/probe/cards")(cards)
    app.post("/probe/calls")(lambda: CALLS.stop())


script_callbacks.on_app_started(routes)
