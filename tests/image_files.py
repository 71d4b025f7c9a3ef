"""Generated image files of every kind: valid files with their expected pixels, and helpers for hostile files.

No file is copied from anywhere. Files are written by the rules of the formats, byte by byte where no library would
write them, so that a false length or a wrong depth is exactly where a test needs it.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageCms

ROWS, COLUMNS = 24, 37
Pixels = np.ndarray


@dataclass(frozen=True)
class Good:
    """A file and its expected RGB pixels, with a tolerance of `within`."""

    data: bytes
    pixels: Pixels
    within: float = 0


@dataclass(frozen=True)
class Bad:
    """A file and the error codes it may be rejected with."""

    data: bytes
    codes: tuple[str, ...]


def scene(rows: int = ROWS, columns: int = COLUMNS) -> Pixels:
    """Return an RGB image whose corners, sides and channels are all different."""
    y, x = np.mgrid[0:rows, 0:columns]
    red, green, blue = x * 255 // max(columns - 1, 1), y * 255 // max(rows - 1, 1), (x + 2 * y) * 3 % 256
    pixels = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    pixels[: rows // 3, : columns // 4] = (200, 30, 60)
    return pixels


def gray(values: Pixels) -> Pixels:
    """Repeat one channel as RGB."""
    return np.repeat(values[..., None], 3, axis=-1).astype(np.uint8)


def composite(pixels: Pixels, alpha: Pixels, background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """Composite pixels with alpha (0 to 255) over a background."""
    opacity = alpha[..., None] / 255
    return np.rint(pixels * opacity + np.array(background) * (1 - opacity)).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Pixels:
    """Decode a file with Pillow."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# PNG -----------------------------------------------------------------------------------------------------------------


def chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png(samples: Pixels, bits: int, color: int, *between: bytes, size: tuple[int, int] | None = None) -> bytes:
    """Return a PNG file of samples (rows, columns, channels), with further chunks and optionally a false size."""
    rows, columns, _ = samples.shape
    if bits == 16:
        lines = samples.astype(">u2").reshape(rows, -1).view(np.uint8)
    elif bits == 8:
        lines = samples.astype(np.uint8).reshape(rows, -1)
    else:
        each = np.unpackbits(samples.astype(np.uint8).reshape(rows, -1, 1), axis=-1)[..., 8 - bits :]
        lines = np.packbits(each.reshape(rows, -1), axis=-1)
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    height, width = size or (rows, columns)
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep(bits: int, channels: int = 1, seed: int = 0) -> Pixels:
    """Return random samples that use all bits."""
    return np.random.default_rng(seed).integers(0, 1 << bits, (ROWS, COLUMNS, channels))


def good_png() -> dict[str, Good]:
    rgb = scene()
    files = {}
    for bits, factor in ((1, 255), (2, 85), (4, 17), (8, 1)):
        values = deep(bits)
        files[f"gray_{bits}"] = Good(png(values, bits, 0), gray(values[..., 0] * factor))
        key = int(values[3, 3, 0])
        clear = np.where(values[..., 0] == key, 255, values[..., 0] * factor)
        files[f"gray_{bits}_key"] = Good(png(values, bits, 0, chunk(b"tRNS", struct.pack(">H", key))), gray(clear))
        palette = np.random.default_rng(1).integers(0, 256, (1 << bits, 3))
        entries = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        files[f"palette_{bits}"] = Good(png(values, bits, 3, entries), palette[values[..., 0]])
        alphas = np.random.default_rng(2).integers(0, 256, (1 << bits) - (bits > 1))
        table = np.concatenate([alphas, np.full(256, 255)])[values[..., 0]]
        data = png(values, bits, 3, entries, chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
        files[f"palette_{bits}_alpha"] = Good(data, composite(palette[values[..., 0]], table), 1)
    wide = deep(16)
    files["gray_16"] = Good(png(wide, 16, 0), gray(wide[..., 0] >> 8))
    key = chunk(b"tRNS", struct.pack(">H", int(wide[5, 6, 0])))
    files["gray_16_key"] = Good(png(wide, 16, 0, key), gray(np.where(wide == wide[5, 6, 0], 255, wide >> 8)[..., 0]))
    wide = deep(16, 3)
    files["rgb_16"] = Good(png(wide, 16, 2), (wide >> 8).astype(np.uint8))
    wide = deep(16, 4)
    files["rgba_16"] = Good(png(wide, 16, 6), composite(wide[..., :3] >> 8, wide[..., 3] >> 8), 1)
    wide = deep(16, 2)
    files["gray_alpha_16"] = Good(png(wide, 16, 4), composite(gray(wide[..., 0] >> 8), wide[..., 1] >> 8), 1)
    small = deep(8, 2)
    files["gray_alpha"] = Good(png(small, 8, 4), composite(gray(small[..., 0]), small[..., 1]), 1)
    alpha = deep(8)
    files["rgba"] = Good(png(np.concatenate([rgb, alpha], -1), 8, 6), composite(rgb, alpha[..., 0]), 1)
    key = chunk(b"tRNS", struct.pack(">HHH", *map(int, rgb[0, 0])))
    clear = np.where((rgb == rgb[0, 0]).all(-1, keepdims=True), 255, rgb)
    files["rgb_key"] = Good(png(rgb, 8, 2, key), clear)
    files["rgb"] = Good(png(rgb, 8, 2), rgb)
    files["rgb_suggested_palette"] = Good(png(rgb, 8, 2, chunk(b"PLTE", bytes(range(60)))), rgb)
    files["rotated"] = Good(png(rgb, 8, 2, chunk(b"eXIf", exif(6))), np.rot90(rgb, -1))
    bomb = zlib.compress(bytes(50_000_000))
    files["text_bomb"] = Good(png(rgb, 8, 2, chunk(b"zTXt", b"a\0\0" + bomb)), rgb)
    files["international_text_bomb"] = Good(png(rgb, 8, 2, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)), rgb)
    files["profile_bomb"] = Good(png(rgb, 8, 2, chunk(b"iCCP", b"a\0\0" + bomb)), rgb)
    files["profile_broken"] = Good(png(rgb, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"ICC"))), rgb)
    files["extra_chunk_broken_sum"] = Good(png(rgb, 8, 2, chunk(b"gAMA", b"\0\0\0\1")[:-1] + b"\0"), rgb)
    files["after_the_end"] = Good(png(rgb, 8, 2) + b"PK\3\4" + bytes(5000), rgb)
    files["wide_color"] = Good(
        png(rgb, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(wide_profile()))), wide_to_srgb(rgb), 3
    )
    interlaced = encode(Image.fromarray(rgb), "PNG", interlace=1)
    files["interlaced"] = Good(interlaced, rgb)
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    files["animated"] = Good(encode(frames[0], "PNG", save_all=True, append_images=frames[1:]), rgb)
    files["one_pixel"] = Good(png(rgb[:1, :1], 8, 2), rgb[:1, :1])
    line = scene(1, 20_000)
    files["line"] = Good(png(line, 8, 2), line)
    files["column"] = Good(png(line.transpose(1, 0, 2), 8, 2), line.transpose(1, 0, 2))
    return {f"png/{name}": file for name, file in files.items()}


# Profiles and EXIF ---------------------------------------------------------------------------------------------------

# Adobe RGB (1998) primaries, adapted to the D50 white point of profiles, as columns of XYZ.
_WIDE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def wide_profile(space: bytes = b"RGB ", primaries: Pixels = _WIDE) -> bytes:
    """Return an ICC profile (version 2) with three primaries and gamma 2.2, or for GRAY with gamma 1.2."""

    def fixed(values: object) -> bytes:
        return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)  # type: ignore[attr-defined]

    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed((0.9642, 1.0, 0.8249))}
    if space == b"RGB ":
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True):
            tags[name] = b"XYZ \0\0\0\0" + fixed(column)
        for name in (b"rTRC", b"gTRC", b"bTRC"):
            tags[name] = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(2.2 * 256), 0)
    else:
        tags[b"kTRC"] = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(1.2 * 256), 0)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, payload in tags.items():
        table += name + struct.pack(">II", start + len(body), len(payload))
        body += payload
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"test", 0x02100000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249)) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def to_srgb(linear: Pixels) -> Pixels:
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curve * 255).astype(np.uint8)


def wide_to_srgb(pixels: Pixels) -> Pixels:
    """Convert pixels from `wide_profile` to sRGB."""
    return to_srgb((pixels / 255) ** 2.2 @ (np.linalg.inv(SRGB) @ _WIDE).T)


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def stored(pixels: Pixels, orientation: int) -> Pixels:
    """Transform upright pixels to the stored pixels of an EXIF orientation."""
    operations: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p.transpose(1, 0, 2), 2),
        8: lambda p: np.rot90(p, -1),
    }
    return np.ascontiguousarray(operations[orientation](pixels))


# JPEG ----------------------------------------------------------------------------------------------------------------


def jpeg(pixels: Pixels | None = None, mode: str = "RGB", **options: object) -> bytes:
    image = Image.fromarray(scene(48, 64) if pixels is None else pixels).convert(mode)
    return encode(image, "JPEG", **({"quality": 92} | options))


def with_false_size(data: bytes, height: int, width: int) -> bytes:
    """Return a JPEG file with a false size in its frame header."""
    at = next(i for i in (data.find(m) for m in (b"\xff\xc0", b"\xff\xc2")) if i >= 0)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def with_segments(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def good_jpeg() -> dict[str, Good]:
    files, rgb = {}, scene(48, 64)
    for name, options in {
        "plain": {},
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "420": {"subsampling": 2},
        "progressive": {"progressive": True},
        "restart": {"restart_marker_blocks": 2},
        "gray": {"mode": "L"},
        "cmyk": {"mode": "CMYK"},
        "cmyk_progressive": {"mode": "CMYK", "progressive": True},
    }.items():
        data = jpeg(**options)
        files[name] = Good(data, decoded(data))
    plain = files["plain"].data
    files["no_end_marker"] = Good(plain[:-2], decoded(plain))
    files["after_the_end"] = Good(plain + plain + b"<script>", decoded(plain))
    files["huge_metadata"] = Good(
        with_segments(plain, *[segment(0xE1, b"Exif\0\0" + bytes(65_000))] * 40), decoded(plain)
    )
    files["wrong_exif"] = Good(
        with_segments(plain, segment(0xE1, b"Exif\0\0" + b"II*\0\xff\xff\xff\xff")), decoded(plain)
    )
    profile_parts = [wide_profile()[i : i + 200] for i in range(0, len(wide_profile()), 200)]
    parts = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, len(profile_parts)]) + p) for i, p in enumerate(profile_parts)
    ]
    files["wide_color"] = Good(with_segments(plain, *parts[::-1]), wide_to_srgb(decoded(plain)), 3)
    files["profile_part_missing"] = Good(with_segments(plain, *parts[1:]), decoded(plain))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files["srgb_profile"] = Good(jpeg(icc_profile=srgb), decoded(plain))
    linear = to_srgb((np.asarray(Image.open(io.BytesIO(jpeg(mode="L")))) / 255.0) ** 1.2)
    files["gray_profile"] = Good(jpeg(mode="L", icc_profile=wide_profile(b"GRAY")), gray(linear), 3)
    files["profile_of_another_mode"] = Good(jpeg(mode="L", icc_profile=wide_profile()), files["gray"].pixels)
    for orientation in range(1, 9):
        data = jpeg(stored(rgb, orientation), subsampling=0, quality=98)
        for order in "<>":
            rotated = with_segments(data, segment(0xE1, b"Exif\0\0" + exif(orientation, order)))
            files[f"orientation_{orientation}{order}"] = Good(rotated, decoded(jpeg(subsampling=0, quality=98)), 4)
    return {f"jpeg/{name}": file for name, file in files.items()}


# TIFF ----------------------------------------------------------------------------------------------------------------


def tiff(samples: Pixels, order: str = "<", *, strips: list[bytes] | None = None, **tags: object) -> bytes:
    """Return an uncompressed TIFF file of samples (rows, columns, channels); further tags are `t<number>=values`."""
    rows, columns, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    body = [samples.astype(samples.dtype.newbyteorder(order)).tobytes()] if strips is None else strips
    entries: dict[int, list[int]] = {256: [columns], 257: [rows], 258: [bits] * channels, 259: [1], 277: [channels]}
    entries |= {262: [2 if channels >= 3 else 1], 278: [rows], 279: [len(part) for part in body]}
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    entries[273] = []
    for part in body:
        entries[273].append(len(data))
        data += part + b"\0" * (len(part) & 1)
    for tag, values in tags.items():
        entries[int(tag[1:])] = list(values) if isinstance(values, list | tuple | bytes) else [values]  # type: ignore[list-item]
    directory = b""
    for tag, values in sorted(entries.items()):
        kind, code = (3, "H") if max(values) < 65536 else (4, "I")
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            position = struct.pack(order + "I", len(data))
            data += packed + b"\0" * (len(packed) & 1)
            packed = position
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    struct.pack_into(order + "I", data, 4, len(data))
    return bytes(data) + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def _compressed_values() -> dict[str, Good]:
    """Return gray images of wide values with Deflate, in both byte orders."""
    fraction = np.random.default_rng(3).random((ROWS, COLUMNS, 1)).astype(np.float32)
    signed = (deep(16).astype(np.int64) - 32768).astype(np.int16)
    unsigned = deep(16).astype(np.uint32) << 16
    compressed = {}
    for order, name in (("<", "little"), (">", "big")):
        for kind, values, code, pixels in (
            ("float", fraction, 3, np.rint(fraction[..., 0] * 255)),
            ("signed_16", signed, 2, np.clip(signed >> 7, 0, 255)[..., 0]),
            ("signed_32", signed.astype(np.int32) << 16, 2, np.clip(signed >> 7, 0, 255)[..., 0]),
            ("unsigned_32", unsigned, 1, (unsigned >> 24)[..., 0]),
            ("gray_16", deep(16).astype(np.uint16), 1, (deep(16) >> 8)[..., 0]),
            ("rgb_16", deep(16, 3).astype(np.uint16), 1, deep(16, 3) >> 8),
        ):
            strip = zlib.compress(values.astype(values.dtype.newbyteorder(order)).tobytes())
            data = tiff(values, order, strips=[strip], t259=8, t339=[code] * values.shape[2])
            shown = pixels.astype(np.uint8)
            compressed[f"{kind}_{name}_deflate"] = Good(data, gray(shown) if shown.ndim == 2 else shown)
    plain = tiff(unsigned, ">", t339=1)
    return compressed | {"unsigned_32_big": Good(plain, gray((unsigned >> 24)[..., 0].astype(np.uint8)))}


def good_tiff() -> dict[str, Good]:
    files, rgb, byte = {}, scene(), deep(8).astype(np.uint8)
    wide, signed = deep(16).astype(np.uint16), deep(16).astype(np.int64) - 32768
    for order, name in (("<", "little"), (">", "big")):
        files[f"gray_8_{name}"] = Good(tiff(byte, order), gray(byte[..., 0]))
        files[f"rgb_{name}"] = Good(tiff(rgb, order), rgb)
        files[f"gray_16_{name}"] = Good(tiff(wide, order), gray(wide[..., 0] >> 8))
        values = signed.astype(np.int16)
        files[f"signed_16_{name}"] = Good(tiff(values, order, t339=2), gray(np.clip(values >> 7, 0, 255)[..., 0]))
        color = deep(16, 3).astype(np.uint16)
        files[f"rgb_16_{name}"] = Good(tiff(color, order), (color >> 8).astype(np.uint8))
        fraction = np.random.default_rng(3).random((ROWS, COLUMNS, 1)).astype(np.float32)
        files[f"float_{name}"] = Good(tiff(fraction, order, t339=3), gray(np.rint(fraction[..., 0] * 255)))
    files |= _compressed_values()
    files["float_255"] = Good(tiff(byte.astype(np.float32), t339=3), gray(byte[..., 0]))
    broken = byte.astype(np.float32) / 255
    broken[0, 0], broken[0, 1] = np.nan, -5
    expected = byte.copy()
    expected[0, :2] = 0
    files["float_not_a_number"] = Good(tiff(broken, t339=3), gray(expected[..., 0]))
    files["unsigned_32"] = Good(tiff(wide.astype(np.uint32) << 16), gray(wide[..., 0] >> 8))
    files["signed_32"] = Good(tiff((signed << 16).astype(np.int32), t339=2), gray(np.clip(signed >> 7, 0, 255)[..., 0]))
    files["white_is_zero_8"] = Good(tiff(byte, t262=0), gray(255 - byte[..., 0]))
    files["white_is_zero_16"] = Good(tiff(wide, t262=0), gray(255 - (wide[..., 0] >> 8)))
    alpha = deep(8, seed=9).astype(np.uint8)
    rgba = np.concatenate([rgb, alpha], -1)
    files["rgba"] = Good(tiff(rgba, t338=2), composite(rgb, alpha[..., 0]), 1)
    files["rgb_and_unknown"] = Good(tiff(rgba, t338=0), rgb)
    shaded = np.concatenate([np.rint(rgb * (alpha / 255)).astype(np.uint8), alpha], -1)
    files["premultiplied"] = Good(tiff(shaded, t338=1), composite(rgb, alpha[..., 0]), 2)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    files["cmyk"] = Good(tiff(np.asarray(cmyk), t262=5), np.asarray(cmyk.convert("RGB")))
    palette = np.random.default_rng(4).integers(0, 256, (256, 3))
    colors = (palette * 257).T.reshape(-1).tolist()
    files["palette"] = Good(tiff(byte, t262=3, t320=colors), palette[byte[..., 0]])
    planes = [rgb[..., i].tobytes() for i in range(3)]
    files["planes"] = Good(tiff(rgb, strips=planes, t284=2), rgb)
    rows = [rgb[i : i + 5].tobytes() for i in range(0, ROWS, 5)]
    files["too_many_values"] = Good(tiff(rgb, t278=[ROWS] * 513, t262=[2, 3]), rgb)
    files["strips"] = Good(tiff(rgb, strips=rows, t278=5), rgb)
    files["deflate"] = Good(tiff(rgb, strips=[zlib.compress(row) for row in rows], t278=5, t259=8), rgb)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        files[compression] = Good(encode(Image.fromarray(rgb), "TIFF", compression=compression), rgb)
    files["fax"] = Good(*(lambda bw: (encode(bw, "TIFF", compression="group4"), decoded(encode(bw, "PNG"))))(
        Image.fromarray(rgb).convert("1")
    ))  # fmt: skip
    compressed = encode(Image.fromarray(rgb), "TIFF", compression="jpeg", quality=95)
    files["jpeg_inside"] = Good(compressed, decoded(compressed))
    for orientation in range(1, 9):
        rotated = tiff(stored(rgb, orientation), t274=orientation)
        files[f"orientation_{orientation}"] = Good(rotated, rgb)
    pages = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    files["pages"] = Good(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]), rgb)
    files["wide_color"] = Good(encode(pages[0], "TIFF", icc_profile=wide_profile()), wide_to_srgb(rgb), 3)
    muted = rgb // 4 + 90
    files["lab"] = Good(encode(_lab(muted), "TIFF"), muted, 4)
    return {f"tiff/{name}": file for name, file in files.items()}


def _lab(pixels: Pixels) -> Image.Image:
    """Convert an image with muted colors, which are all in gamut, to Lab."""
    rgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.applyTransform(Image.fromarray(pixels), ImageCms.buildTransform(rgb, lab, "RGB", "LAB"))


# GIF, BMP, WebP, AVIF ------------------------------------------------------------------------------------------------


def good_others() -> dict[str, Good]:
    rgb, files = scene(), {}
    image = Image.fromarray(rgb)
    indexed = image.quantize(64)
    visible = np.asarray(indexed.convert("RGB"))
    files["gif/palette"] = Good(encode(indexed, "GIF"), visible)
    indices = np.asarray(indexed)
    transparent = np.where((indices == indices[0, 0])[..., None], 255, visible)
    files["gif/transparent"] = Good(encode(indexed, "GIF", transparency=int(indices[0, 0])), transparent)
    gray_image = image.convert("L")
    files["gif/gray"] = Good(encode(gray_image, "GIF"), gray(np.asarray(gray_image)))
    frames = [indexed, Image.fromarray(255 - rgb).quantize(64)]
    files["gif/animated"] = Good(
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40), visible
    )
    for mode in ("1", "L", "P", "RGB"):
        converted = indexed if mode == "P" else image.convert(mode)
        files[f"bmp/{mode}"] = Good(encode(converted, "BMP"), np.asarray(converted.convert("RGB")))
    files["bmp/32"] = Good(encode(image.convert("RGBA"), "BMP"), rgb)
    files["bmp/top_down"] = Good(bmp(rgb, top_down=True), rgb)
    files["bmp/trailing"] = Good(bmp(rgb) + bytes(999), rgb)
    coarse = rgb & np.array([0xF8, 0xF8, 0xF8], np.uint8)
    files["bmp/555"] = Good(bmp_16(coarse), np.rint((coarse >> 3) * (255 / 31)), 1)
    files["bmp/run_length"] = Good(bmp_run_length(), np.repeat(gray(np.arange(8)[:, None] * 30), 20, axis=1))
    lossless = {"lossless": True, "exact": True}
    files["webp/lossless"] = Good(encode(image, "WEBP", **lossless), rgb)
    lossy = encode(image, "WEBP", quality=80)
    files["webp/lossy"] = Good(lossy, decoded(lossy))
    alpha = deep(8).astype(np.uint8)
    clear = Image.fromarray(np.concatenate([rgb, alpha], -1))
    files["webp/alpha_lossless"] = Good(encode(clear, "WEBP", **lossless), composite(rgb, alpha[..., 0]), 1)
    lossy = encode(clear, "WEBP", quality=90)
    rgba_pixels = np.asarray(Image.open(io.BytesIO(lossy)).convert("RGBA"))
    files["webp/alpha_lossy"] = Good(lossy, composite(rgba_pixels[..., :3], rgba_pixels[..., 3]), 1)
    files["webp/rotated"] = Good(
        encode(Image.fromarray(stored(rgb, 8)), "WEBP", exif=b"Exif\0\0" + exif(8), **lossless), rgb
    )
    files["webp/wide_color"] = Good(encode(image, "WEBP", icc_profile=wide_profile(), **lossless), wide_to_srgb(rgb), 3)
    moving = encode(image, "WEBP", save_all=True, append_images=[Image.fromarray(255 - rgb)], **lossless)
    files["webp/animated"] = Good(moving, rgb)
    files["webp/animated_part"] = Good(webp_part(image), _part(rgb))
    lossy = encode(image, "AVIF", quality=90)
    files["avif/plain"] = Good(lossy, decoded(lossy))
    lossy = encode(clear, "AVIF", quality=90)
    rgba_pixels = np.asarray(Image.open(io.BytesIO(lossy)).convert("RGBA"))
    files["avif/alpha"] = Good(lossy, composite(rgba_pixels[..., :3], rgba_pixels[..., 3]), 1)
    rotated = encode(
        Image.fromarray(stored(rgb, 6)), "AVIF", quality=100, subsampling="4:4:4", exif=b"Exif\0\0" + exif(6)
    )
    files["avif/rotated"] = Good(rotated, rgb, 6)
    moving = encode(image, "AVIF", save_all=True, append_images=[Image.fromarray(255 - rgb)], quality=90)
    files["avif/animated"] = Good(moving, decoded(encode(image, "AVIF", quality=90)), 12)
    return files


def bmp(pixels: Pixels, top_down: bool = False, size: tuple[int, int] | None = None) -> bytes:
    rows, columns, _ = pixels.shape
    lines = (pixels if top_down else pixels[::-1])[..., ::-1].reshape(rows, -1)
    body = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 4))).tobytes()
    height, width = size or (-rows if top_down else rows, columns)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body


def bmp_16(pixels: Pixels) -> bytes:
    rows, columns, _ = pixels.shape
    five = (pixels >> 3).astype(np.uint16)
    lines = np.pad(five[::-1, :, 0] << 10 | five[::-1, :, 1] << 5 | five[::-1, :, 2], ((0, 0), (0, columns % 2)))
    body = lines.astype("<u2").tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, columns, rows, 1, 16, 0, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body


def bmp_run_length(rows: int = 8, columns: int = 20, runs: bytes | None = None) -> bytes:
    """Return a run-length encoded BMP file; by default row i has the gray value 30 * i."""
    if runs is None:
        runs = b"".join(bytes([columns, i, 0, 0]) for i in reversed(range(rows))) + b"\0\1"
    palette = b"".join(bytes([30 * i % 256] * 3 + [0]) for i in range(256))
    head = struct.pack("<IiiHHIIiiII", 40, columns, rows, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(runs), 0, 0, 54 + 1024) + head + palette + runs


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for name, data in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _three(*values: int) -> bytes:
    return b"".join(value.to_bytes(3, "little") for value in values)


def webp_part(image: Image.Image, canvas: tuple[int, int] = (60, 80), at: tuple[int, int] = (4, 10)) -> bytes:
    """Return an animation with one frame at `at` (top, left) of a canvas (rows, columns)."""
    still = encode(image, "WEBP", lossless=True, exact=True)[12:]
    frame = _three(at[1] // 2, at[0] // 2, image.width - 1, image.height - 1, 40) + b"\0"
    return riff(
        (b"VP8X", bytes([0x12, 0, 0, 0]) + _three(canvas[1] - 1, canvas[0] - 1)),
        (b"ANIM", bytes(6)),
        (b"ANMF", frame + still),
    )


def _part(pixels: Pixels) -> Pixels:
    canvas = np.full((60, 80, 3), 255, np.uint8)
    canvas[4 : 4 + ROWS, 10 : 10 + COLUMNS] = pixels
    return canvas


@cache
def good() -> dict[str, Good]:
    """Return all valid files by name."""
    from unusual_files import unusual

    return good_png() | good_jpeg() | good_tiff() | good_others() | unusual()
