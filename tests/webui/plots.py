"""Requests for plots."""


def plot(host, x, y=("Nothing", ""), csv=False) -> dict:
    """The parameters of a request for a plot; an axis is (label, values)."""
    script = next(s for s in host.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"])
    labels = next(arg["choices"] for arg in script["args"] if arg["label"] == "X type")

    def axis(label, values):
        listed = isinstance(values, list)
        return [labels.index(label), ", ".join(values) if listed else values, values if listed and not csv else []]

    flags = [False, True, False, False, False, False, False, 0, csv]  # no legend, each image by itself
    return {"script_name": "x/y/z plot", "script_args": [*axis(*x), *axis(*y), *axis("Nothing", ""), *flags]}


def cells(host, prompt, x, y=("Nothing", ""), args=None, csv=False, **parameters):
    result = host.generate(prompt, args, **plot(host, x, y, csv), **parameters)
    return result.images[1:], result.infotexts[1:], result.info
