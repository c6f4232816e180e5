"""The routes of ours that a password guards."""

ROUTES = [
    ("GET", "/persres/v1/residuals"),
    ("POST", "/persres/v1/refresh"),
    ("GET", "/persres/v1/train"),
    ("POST", "/persres/v1/train"),
    ("GET", "/persres/v1/train/x"),
    ("GET", "/persres/v1/train/x/preview/1/lag"),
    ("POST", "/persres/v1/train/x/stop"),
    ("POST", "/persres/v1/train/x/move/1"),
    ("DELETE", "/persres/v1/train/x"),
]
