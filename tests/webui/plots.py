"""Requests for plots."""


def plot(host, x, y=("Nothing", ""), csv=False) -> dict:
    """The parameters of a request for a plot; an axis is (label, values)."""
    script = next(s for s in host.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"])
    labels = next(arg["choices"] for arg in script["args"] if arg["label"] == "X type")

    def axis(label, values):
        listed = isinstance(values, list)
        return [labels.index(label), ", ".join(values) if listed else values, values if listed and not csv else []]

    axes = [*axis(*x), *axis(*y), *axis("Nothing", "")]
    # hosts have flags of their own between those of A1111
    flags = [{"Draw legend": False, "Include Sub Images": True}.get(a["label"], a["value"]) for a in script["args"]]
    return {"script_name": "x/y/z plot", "script_args": [*axes, *flags[len(axes) : -1], csv]}


def cells(host, prompt, x, y=("Nothing", ""), args=None, csv=False, **parameters):
    result = host.generate(prompt, args, **plot(host, x, y, csv), **parameters)
    return result.images[1:], result.infotexts[1:], result.info
