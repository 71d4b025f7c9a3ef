"""Hostile image files: bombs, false sizes, corrupt structure and files that are not images, with their error codes.

Every file is small, whatever size it claims. `REGRESSIONS` contains minimized findings of fuzzing.
"""

import struct
import zlib
from functools import cache

import numpy as np
from image_files import (
    Bad,
    bmp,
    bmp_run_length,
    chunk,
    deep,
    encode,
    exif,
    jpeg,
    png,
    riff,
    scene,
    segment,
    tiff,
    webp_part,
    with_false_size,
    with_segments,
)
from PIL import Image

PIXELS, CORRUPT, TRUNCATED = ("too_many_pixels",), ("corrupt",), ("truncated",)
BROKEN = ("corrupt", "truncated")
NOTHING, FORMAT, LARGE = ("not_an_image",), ("unsupported_format",), ("too_large",)


def _not_images() -> dict[str, Bad]:
    generator = np.random.default_rng(5)
    html = b"<!DOCTYPE html><html><body><img src=x onerror=alert(1)></body></html>"
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    return {
        "empty": Bad(b"", NOTHING),
        "one byte": Bad(b"\xff", NOTHING),
        "zeros": Bad(bytes(5000), NOTHING),
        "random": Bad(generator.bytes(50_000), NOTHING),
        "text": Bad(b"BM and other abbreviations, explained\n" * 20, NOTHING),
        "html": Bad(html, NOTHING),
        "pdf": Bad(b"%PDF-1.7\n1 0 obj <</Type/Catalog>> endobj", NOTHING),
        "zip": Bad(b"PK\3\4" + bytes(100), NOTHING),
        "elf": Bad(b"\x7fELF" + bytes(100), NOTHING),
        "pickle": Bad(b"\x80\x04cos\nsystem\n(S'true'\ntR.", NOTHING),
        "riff of sound": Bad(b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(40), NOTHING),
        "film": Bad(b"\0\0\0\x18ftypmp42" + bytes(50), NOTHING),
        "svg": Bad(svg, FORMAT),
        "postscript": Bad(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", FORMAT),
        "photoshop": Bad(b"8BPS\0\1" + bytes(60), FORMAT),
        "tga": Bad(encode(Image.new("RGB", (16, 16)), "TGA"), FORMAT),
        "tga with a color map": Bad(encode(Image.new("P", (16, 16)), "TGA", rle=True), FORMAT),
        "cursor": Bad(b"\0\0\2\0\1\0\x10\x10\0\0" + bytes(60), FORMAT),
        "icon": Bad(encode(Image.new("RGB", (16, 16)), "ICO"), FORMAT),
        "jpeg 2000": Bad(encode(Image.new("RGB", (16, 16)), "JPEG2000"), FORMAT),
        "portable pixmap": Bad(encode(Image.new("RGB", (16, 16)), "PPM"), FORMAT),
        # Without the extra `heif` the format is unsupported, with it the file is damaged.
        "heic": Bad(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), (*FORMAT, *CORRUPT)),
        "only a png signature": Bad(b"\x89PNG\r\n\x1a\n", TRUNCATED),
        "only a jpeg start": Bad(b"\xff\xd8\xff", TRUNCATED),
        "png signature without its high bit": Bad(b"\x09" + png(scene(), 8, 2)[1:], NOTHING),
    }


def _jpegs() -> dict[str, Bad]:
    plain, progressive = jpeg(), jpeg(progressive=True)
    scan = plain.find(b"\xff\xda")
    empty_scan = progressive[progressive.rfind(b"\xff\xda") : -2]
    many_scans = progressive[:-2] + empty_scan * 3000 + b"\xff\xd9"
    big_with_scans = with_false_size(progressive, 7000, 7000)[:-2] + empty_scan * 40 + bytes(200_000) + b"\xff\xd9"
    return {
        "false size of 400 MP": Bad(with_false_size(plain, 20_000, 20_000), PIXELS),
        "false size of 4294 MP": Bad(with_false_size(plain, 65_535, 65_535), PIXELS),
        "false size of 49 MP": Bad(with_false_size(plain, 7000, 7000), TRUNCATED),
        "progressive false size of 49 MP": Bad(with_false_size(progressive, 7000, 7000), TRUNCATED),
        "false size of 49 MP without end": Bad(with_false_size(plain, 7000, 7000)[:-2], TRUNCATED),
        "padded false size of 49 MP without end": Bad(
            with_false_size(plain, 7000, 7000)[:-2] + bytes(900_000), TRUNCATED
        ),
        "no height": Bad(with_false_size(plain, 0, 64), (*FORMAT, *CORRUPT)),
        "no width": Bad(with_false_size(plain, 64, 0), CORRUPT),
        "half": Bad(plain[: len(plain) // 2], TRUNCATED),
        "cut by three bytes": Bad(plain[:-3], TRUNCATED),
        "progressive without end": Bad(progressive[:-2], TRUNCATED),
        "only the header": Bad(plain[: scan + 2], TRUNCATED),
        "cut by ten bytes": Bad(plain[:-10], TRUNCATED),
        "progressive half": Bad(progressive[: len(progressive) // 2], TRUNCATED),
        "3000 scans": Bad(many_scans, PIXELS),
        "40 scans of 49 MP": Bad(big_with_scans, PIXELS),
        "two frame headers": Bad(with_segments(plain, plain[plain.find(b"\xff\xc0") :][:19]), CORRUPT),
        "frame header too short": Bad(with_segments(plain, segment(0xC0, b"\x08\0\x10")), CORRUPT),
        "no frame header": Bad(b"\xff\xd8" + plain[scan:], CORRUPT),
        "no tables": Bad(b"\xff\xd8" + plain[plain.find(b"\xff\xc0") :][:19] + plain[scan:], CORRUPT),
        "12 bits": Bad(plain.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), FORMAT),
        "arithmetic": Bad(plain.replace(b"\xff\xc0", b"\xff\xc9", 1), FORMAT),
        "lossless": Bad(plain.replace(b"\xff\xc0", b"\xff\xc3", 1), FORMAT),
        "sampling factor 0": Bad(plain.replace(b"\x01\x22\x00", b"\x01\x00\x00", 1), CORRUPT),
        "segment of length 0": Bad(plain[:2] + b"\xff\xe1\0\0" + plain[2:], CORRUPT),
        "segments without end": Bad(plain[:2] + b"\xff\xe1\0\2" * 70_000, CORRUPT),
        "end at once": Bad(b"\xff\xd8\xff\xd9", CORRUPT),
        "fill bytes only": Bad(b"\xff\xd8" + b"\xff" * 100_000, TRUNCATED),
    }


def _header(width: int, height: int, bits: int = 8, color: int = 2, rest: bytes = b"\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, bits, color) + rest)


def _pngs() -> dict[str, Bad]:
    mark, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    plain, zeros = png(scene(), 8, 2), chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    at = plain.find(b"IDAT")

    def broken(position: int) -> bytes:
        return plain[:position] + bytes([plain[position] ^ 1]) + plain[position + 1 :]

    return {
        "bomb of 169 MP": Bad(mark + _header(13_000, 13_000) + zeros + end, PIXELS),
        "bomb of 400 MP, 1 bit": Bad(mark + _header(20_000, 20_000, 1, 0) + zeros + end, PIXELS),
        "largest size": Bad(mark + _header(2**31 - 1, 2**31 - 1) + zeros + end, PIXELS),
        "beyond the largest size": Bad(mark + _header(2**32 - 1, 1) + zeros + end, PIXELS),
        "false size of 49 MP": Bad(mark + _header(7000, 7000) + zeros + end, TRUNCATED),
        "false size of 49 MP, padded": Bad(
            mark + _header(7000, 7000) + zeros + chunk(b"IDAT", bytes(150_000)) + end, BROKEN
        ),
        "false size of 9 MP": Bad(png(scene(), 8, 2, size=(3000, 3000)), TRUNCATED),
        "false size of few rows": Bad(png(scene(), 8, 2, size=(30, 37)), TRUNCATED),
        "no size": Bad(mark + _header(0, 5) + zeros + end, CORRUPT),
        "half": Bad(plain[: len(plain) // 2], TRUNCATED),
        "no pixels": Bad(mark + _header(5, 5) + end, CORRUPT),
        "empty pixels": Bad(mark + _header(5, 5) + chunk(b"IDAT", b"") + end, CORRUPT),
        "pixels that do not unpack": Bad(mark + _header(5, 5) + chunk(b"IDAT", b"not deflate") + end, BROKEN),
        "sum of the header": Bad(broken(20), CORRUPT),
        "sum of the pixels": Bad(broken(at + 30), CORRUPT),
        "no palette": Bad(png(deep(8), 8, 3), CORRUPT),
        "palette of 1 byte": Bad(png(deep(8), 8, 3, chunk(b"PLTE", b"a")), CORRUPT),
        "two headers": Bad(png(scene(), 8, 2, _header(5, 5)), CORRUPT),
        "header last": Bad(mark + zeros + _header(5, 5) + end, CORRUPT),
        "pixels apart": Bad(png(scene(), 8, 2, zeros, chunk(b"tEXt", b"a\0b")), CORRUPT),
        "unknown critical chunk": Bad(png(scene(), 8, 2, chunk(b"EVIL", b"x")), FORMAT),
        "chunk name of zeros": Bad(mark + _header(5, 5) + bytes(12) + end, CORRUPT),
        "chunk of 2 GB": Bad(mark + _header(5, 5) + struct.pack(">I", 2**31 - 1) + b"IDATxx", TRUNCATED),
        "70000 chunks": Bad(mark + _header(5, 5) + chunk(b"tEXt", b"") * 70_000 + zeros + end, CORRUPT),
        "a million frames": Bad(png(scene(), 8, 2, chunk(b"acTL", struct.pack(">II", 10**6, 0))), LARGE),
        "color type 1": Bad(mark + _header(5, 5, 8, 1) + zeros + end, CORRUPT),
        "3 bits": Bad(mark + _header(5, 5, 3, 0) + zeros + end, CORRUPT),
        "interlace method 2": Bad(mark + _header(5, 5, rest=b"\0\0\2") + zeros + end, CORRUPT),
        "compression method 1": Bad(mark + _header(5, 5, rest=b"\1\0\0") + zeros + end, CORRUPT),
    }


def gif(
    width: int, height: int, frame: tuple[int, int, int, int] | None = None, data: bytes = b"\2\2\x4c\1\0"
) -> bytes:
    left, top, columns, rows = frame or (0, 0, width, height)
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    return head + b"," + struct.pack("<HHHHB", left, top, columns, rows, 0) + data + b";"


def _gifs_and_bitmaps() -> dict[str, Bad]:
    rgb = scene()
    complete = encode(Image.fromarray(rgb).quantize(16), "GIF")
    frames = gif(1, 1)[:-1] + (b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0") * 1200 + b";"
    return {
        "gif bomb": Bad(gif(65_535, 65_535), PIXELS),
        "gif frame far outside": Bad(gif(10, 10, (60_000, 60_000, 10, 10)), PIXELS),
        "gif frame larger than its screen": Bad(gif(1, 1, (0, 0, 50_000, 50_000)), PIXELS),
        "gif false size of 49 MP": Bad(gif(7000, 7000), TRUNCATED),
        "gif false size of few rows": Bad(gif(9, 900), TRUNCATED),
        "gif without an image": Bad(b"GIF89a" + bytes(7) + b";", CORRUPT),
        "gif without width": Bad(gif(0, 7), CORRUPT),
        "gif of 1201 frames": Bad(frames, LARGE),
        "gif half": Bad(complete[: len(complete) // 2], TRUNCATED),
        "gif screen only": Bad(complete[:11], TRUNCATED),
        "gif unknown block": Bad(b"GIF89a" + bytes(7) + b"\x55", CORRUPT),
        "gif code size 12": Bad(gif(5, 5, data=b"\x0c\2\x4c\1\0"), CORRUPT),
        "gif blocks without end": Bad(b"GIF89a" + bytes(7) + b"!\xfe" + b"\1a" * 1_100_000, CORRUPT),
        "bmp bomb": Bad(bmp(rgb, size=(30_000, 30_000)), PIXELS),
        "bmp false size of 49 MP": Bad(bmp(rgb, size=(7000, 7000)), TRUNCATED),
        "bmp negative width": Bad(bmp(rgb, size=(24, -37)), CORRUPT),
        "bmp lowest height": Bad(bmp(rgb, size=(-(2**31), 37)), PIXELS),
        "bmp half": Bad(bmp(rgb)[:900], TRUNCATED),
        "bmp header only": Bad(bmp(rgb)[:30], TRUNCATED),
        "bmp run-length bomb": Bad(bmp_run_length(7000, 7000, b"\0\1"), PIXELS),
        "bmp of 3 bits": Bad(bmp(rgb)[:28] + b"\3" + bmp(rgb)[29:], FORMAT),
        "bmp with a jpeg inside": Bad(bmp(rgb)[:30] + b"\4" + bmp(rgb)[31:], FORMAT),
        "bmp odd masks": Bad(bmp(rgb)[:30] + b"\3" + bmp(rgb)[31:], FORMAT),
    }


def _tiffs() -> dict[str, Bad]:
    rgb, blob = scene(), zlib.compress(bytes(2_000_000))
    plain = tiff(rgb)
    return {
        "bomb": Bad(tiff(rgb, t256=60_000, t257=60_000), PIXELS),
        "false size of 49 MP": Bad(tiff(rgb, t256=7000, t257=7000), BROKEN),
        "deflate false size of 49 MP": Bad(
            tiff(rgb, strips=[blob], t256=7000, t257=7000, t259=8, t278=7000), TRUNCATED
        ),
        "no rows": Bad(tiff(rgb, t257=0), CORRUPT),
        "strip of no rows": Bad(tiff(rgb, t278=0), CORRUPT),
        "strips missing": Bad(tiff(rgb, t278=1), CORRUPT),
        "strips that overlap": Bad(tiff(rgb, t278=1, t273=[8] * 24, t279=[len(rgb.tobytes())] * 24), CORRUPT),
        "strip outside": Bad(tiff(rgb, t273=[10**9]), TRUNCATED),
        "strip of 4 GB": Bad(tiff(rgb, t279=[2**32 - 1]), TRUNCATED),
        "half": Bad(plain[: len(plain) // 2], TRUNCATED),
        "directory outside": Bad(b"II*\0\xff\xff\xff\x7f" + bytes(50), TRUNCATED),
        "empty directory": Bad(b"II*\0\x08\0\0\0\0\0\0\0\0\0", CORRUPT),
        "tile of 4000 MP": Bad(tiff(rgb, t322=65_520, t323=65_520, t324=[8], t325=[99]), PIXELS),
        "tile of 1 x 1": Bad(tiff(rgb, t322=1, t323=1, t324=[8], t325=[99]), CORRUPT),
        "big tiff": Bad(b"II+\0\x08\0\0\0" + bytes(16), FORMAT),
        "lzma": Bad(tiff(rgb, t259=34925), FORMAT),
        "jpeg 2000 inside": Bad(tiff(rgb, t259=34712), FORMAT),
        "unknown compression": Bad(tiff(rgb, t259=4242), FORMAT),
        "9 samples": Bad(tiff(rgb, t277=9), FORMAT),
        "65 bits": Bad(tiff(rgb, t258=[65, 65, 65]), BROKEN),
        "doubles": Bad(tiff(deep(8).astype(np.float64), t339=3), FORMAT),
        "deflate of garbage": Bad(tiff(rgb, strips=[b"garbage" * 9], t259=8), BROKEN),
        "jpeg of garbage": Bad(tiff(rgb, strips=[blob[:1000]], t259=7, t262=6), BROKEN),
        "fax of garbage": Bad(tiff(deep(8)[:4], strips=[b""], t258=1, t259=4), BROKEN),
        "cyclic pages": Bad(tiff(rgb, t257=0)[:-4] + b"\x08\0\0\0", BROKEN),
    }


def _webps_and_avifs() -> dict[str, Bad]:
    image = Image.fromarray(scene())
    lossy, lossless = encode(image, "WEBP"), encode(image, "WEBP", lossless=True)
    avif = encode(image, "AVIF")
    at, size = avif.find(b"ispe") + 8, struct.pack(">II", 20_000, 20_000)
    vp8 = lossy[20:]
    huge = vp8[:6] + struct.pack("<HH", 16_383, 16_383) + vp8[10:]
    canvas = (11_000 - 1).to_bytes(3, "little") * 2
    animation = webp_part(image)
    frame = animation.find(b"ANMF")
    sequence = avif.rfind(b"\x0a", 0, avif.find(b"mdat") + 20)
    return {
        "webp bomb": Bad(riff((b"VP8 ", huge)), PIXELS),
        "webp lossless bomb": Bad(riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(40))), PIXELS),
        "webp canvas of 121 MP": Bad(riff((b"VP8X", bytes(4) + canvas), (b"VP8 ", vp8)), PIXELS),
        "webp canvas with a false size": Bad(
            riff((b"VP8X", bytes(4) + b"\xff\x0f\0\xff\x0f\0"), (b"VP8 ", vp8)), CORRUPT
        ),
        "webp half": Bad(lossy[: len(lossy) // 2], TRUNCATED),
        "webp inner half": Bad(riff((b"VP8 ", vp8[: len(vp8) // 8])), BROKEN),
        "webp lossless inner half": Bad(riff((b"VP8L", lossless[20 : 20 + len(lossless) // 2])), BROKEN),
        "webp without an image": Bad(riff((b"EXIF", exif(6))), CORRUPT),
        "webp frame outside": Bad(animation[: frame + 8] + b"\xff\xff\0" + animation[frame + 11 :], CORRUPT),
        "webp no frame": Bad(riff((b"VP8X", b"\x02\0\0\0" + bytes(6)), (b"ANIM", bytes(6))), CORRUPT),
        "webp 1001 frames": Bad(riff((b"VP8X", b"\x02\0\0\0" + bytes(6)), *[(b"ANMF", b"")] * 1001), LARGE),
        "webp no first frame bits": Bad(riff((b"VP8 ", b"\x01" + vp8[1:])), CORRUPT),
        "avif bomb": Bad(avif[:at] + size + avif[at + 8 :], PIXELS),
        "avif small claim": Bad(avif[:at] + struct.pack(">II", 4, 4) + avif[at + 8 :], CORRUPT),
        "avif half": Bad(avif[: len(avif) // 2], TRUNCATED),
        "avif sequence header of garbage": Bad(
            avif[: sequence + 2] + b"\xff" * 10 + avif[sequence + 12 :], BROKEN + PIXELS
        ),
        "avif without boxes": Bad(avif[:36], CORRUPT),
        "avif box of length 4": Bad(avif[:36] + b"\0\0\0\4meta" + avif[44:], CORRUPT),
    }


def _polyglots() -> dict[str, Bad]:
    """Return files of two formats: only the first bytes count."""
    return {
        "html followed by a jpeg": Bad(b"<html>" + jpeg(), NOTHING),
        "pdf followed by a png": Bad(b"%PDF-1.4\n" + png(scene(), 8, 2), NOTHING),
        "gif mark before a png": Bad(b"GIF89a" + png(scene(), 8, 2), BROKEN + PIXELS),
        "bm mark before a jpeg": Bad(b"BM" + bytes(12) + b"\x28\0\0\0" + jpeg(), (*BROKEN, *PIXELS, *FORMAT)),
    }


#: Minimized findings of fuzzing.
REGRESSIONS: dict[str, Bad] = {}


@cache
def bad() -> dict[str, Bad]:
    """Return all hostile files by name."""
    groups = {
        "nothing": _not_images(),
        "jpeg": _jpegs(),
        "png": _pngs(),
        "other": _gifs_and_bitmaps(),
        "tiff": _tiffs(),
        "modern": _webps_and_avifs(),
        "polyglot": _polyglots(),
        "found": REGRESSIONS,
    }
    return {f"{group}/{name}": file for group, files in groups.items() for name, file in files.items()}
