"""Command-line options that the extension adds to the WebUI's own."""


def preload(parser):
    parser.add_argument(
        "--persres-dir",
        type=str,
        default=None,
        help="folder of the personalized residuals (default: the folder persres in the models folder)",
    )
