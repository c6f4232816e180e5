"""The WebUI runs this file each time it starts, before anything else of the extension."""


def install() -> None:
    """Installs nothing: torch, safetensors, numpy and Pillow are all that the extension imports in the WebUI,
    and the WebUI has them. A second version beside the WebUI's own would only break other extensions."""


if __name__ == "__main__":
    install()
