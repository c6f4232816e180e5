"""What a file is: by its first bytes where it is read, by its name where it is only counted."""

from __future__ import annotations

from pathlib import PurePath

READ = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
"""The only formats that are opened, by Pillow's names."""
PLAIN = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
HEIC = (".heic", ".heif", ".hif")
SUFFIXES = (*PLAIN, *HEIC)

START = 256
"""So many bytes of a file tell its format."""
STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")
FOREIGN = (
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"PK\x03\x04", "an archive"),
    (b"\x1f\x8b", "an archive"),
    (b"version https://git-lfs", "a note of Git LFS where the file should be"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "a text file"),
    (b"<!DOCTYPE", "a page of the web"),
    (b"<html", "a page of the web"),
)

Kind = tuple[str, str]
"""What is counted in a folder: of one, of many."""
VIDEO = ("video", "videos")
TEXT = ("text file", "text files")
CAPTION = ("caption file", "caption files")
RAW = ("camera's raw file", "cameras' raw files")
OTHER_PICTURE = ("picture of another format", "pictures of other formats")
ARCHIVE = ("archive", "archives")
OTHER = ("other file", "other files")
HEIC_PICTURE = ("HEIC picture", "HEIC pictures")
AVIF_PICTURE = ("AVIF picture", "AVIF pictures")
LINK = ("link that leads nowhere", "links that lead nowhere")
NO_FILE = ("pipe or device", "pipes or devices")
NAMES = (
    (VIDEO, "mp4 mov avi mkv webm m4v 3gp mpg mpeg wmv flv mts m2ts ogv"),
    (TEXT, "txt md json jsonl csv tsv xml yaml yml html htm log ini toml caption"),
    (RAW, "dng nef nrw cr2 cr3 crw arw sr2 srf raf orf rw2 pef raw"),
    (OTHER_PICTURE, "jp2 j2k jpx jxl psd psb tga svg ppm pgm pbm pnm ico eps ps pdf ai xcf exr hdr dds pcx qoi"),
    (ARCHIVE, "zip rar 7z tar gz tgz bz2 xz"),
)


def of_bytes(data: bytes) -> str | None:
    """One of READ, or None."""
    for start, kind in STARTS:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if any(brand in AVIF_BRANDS for brand in brands):
            return "AVIF"
        if any(brand in HEIC_BRANDS for brand in brands):
            return "HEIF"
    return None


def _brands(data: bytes) -> list[bytes]:
    """The major brand and the compatible ones of a file of boxes."""
    end = min(int.from_bytes(data[:4], "big"), START)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def foreign(data: bytes, name: str = "") -> str:
    """What a file is that is not read here, for the inside of a sentence: "a PostScript file"."""
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for known, words in FOREIGN:
        if start.startswith(known) or data.startswith(known):
            return words
    if data[4:8] == b"ftyp" or data[:4] == b"RIFF":
        return "a video" if data[8:12] != b"WAVE" else "a sound"
    kind = kind_of_name(name)
    if kind is not None and kind != OTHER:
        return f"a {kind[0]}"
    return "not an image format known here"


def kind_of_name(name: str) -> Kind | None:
    """What a file in a folder is counted as; None for an image, and for what a system leaves about."""
    if name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "icon\r"):
        return None
    suffix = PurePath(name).suffix.lower()
    if suffix in SUFFIXES:
        return None
    return next((kind for kind, suffixes in NAMES if suffix[1:] and suffix[1:] in suffixes.split()), OTHER)
