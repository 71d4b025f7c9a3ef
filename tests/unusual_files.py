"""Valid image files that few programs write, with their expected pixels; see `image_files`."""

import struct
import zlib

import numpy as np
from image_files import (
    COLUMNS,
    SRGB,
    Good,
    Pixels,
    deep,
    encode,
    gray,
    jpeg,
    png,
    scene,
    segment,
    tiff,
    to_srgb,
    wide_profile,
    with_segments,
)
from image_files import chunk as png_chunk
from image_files import decoded as decode
from PIL import Image


def unusual() -> dict[str, Good]:
    """Return all unusual files by name."""
    return _jpegs() | _profiles() | _tiffs() | _avifs()


def jpeg_441() -> bytes:
    """Return a JPEG file with 4:4:1 sampling, which simplejpeg does not know: the frame header of a 4:2:0 file edited.

    The scan is longer than the image needs, so the pixels are those of any decoder.
    """
    data = bytearray(jpeg(np.full((48, 64, 3), 90, np.uint8), subsampling=2))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 32, 8)
    data[at + 11] = 0x14
    return bytes(data)


def exif_of(kind: int, packed: bytes) -> bytes:
    """Return EXIF data with an orientation of a TIFF type and its packed little-endian value."""
    entry = struct.pack("<HHI", 0x0112, kind, 1) + packed.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def _jpegs() -> dict[str, Good]:
    plain = jpeg()
    pixels = decode(plain)
    files = {
        "441": Good(jpeg_441(), decode(jpeg_441())),
        "fill_bytes_after_the_end": Good(plain + b"\xff" * 100_000, pixels),
        "fill_bytes_without_the_end": Good(plain[:-2] + b"\xff" * 100_000, pixels),
        "fill_bytes_before_a_segment": Good(plain[:2] + b"\xff" * 100_000 + plain[2:], pixels),
    }
    for name, kind, code in (("byte", 1, "B"), ("long", 4, "I"), ("signed_short", 8, "h"), ("signed_long", 9, "i")):
        data = with_segments(plain, segment(0xE1, exif_of(kind, struct.pack("<" + code, 6))))
        files[f"orientation_as_{name}"] = Good(data, np.rot90(pixels, -1))
    negative = segment(0xE1, exif_of(9, struct.pack("<i", -6)))
    files["orientation_negative"] = Good(with_segments(plain, negative), pixels)
    return {f"jpeg/{name}": file for name, file in files.items()}


def _profiles() -> dict[str, Good]:
    """Profiles that differ from sRGB only in the curve: the largest change is 9, at pixel value 15."""
    rgb = scene()
    rgb[-4:, :, :] = np.arange(COLUMNS, dtype=np.uint8)[:, None]
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(wide_profile(primaries=SRGB)))
    return {"png/gamma_profile": Good(png(rgb, 8, 2, profile), to_srgb((rgb / 255) ** 2.2), 2)}


def tiles(pixels: Pixels, side: int = 16) -> list[bytes]:
    """Return the bytes of all tiles; those on the right and lower border are padded."""
    rows, columns, _ = pixels.shape
    padded = np.pad(pixels, ((0, -rows % side), (0, -columns % side), (0, 0)))
    return [
        padded[top : top + side, left : left + side].tobytes()
        for top in range(0, rows, side)
        for left in range(0, columns, side)
    ]


def _tiffs() -> dict[str, Good]:
    rgb, wide = scene(), deep(16)
    parts = tiles(rgb)
    packed = [zlib.compress(part) for part in parts]
    files = {
        "tiles_in_strip_tags": Good(tiff(rgb, strips=parts, t322=16, t323=16), rgb),
        "deflate_tiles_in_strip_tags": Good(tiff(rgb, strips=packed, t322=16, t323=16, t259=8), rgb),
        "signed_32_of_16_bits": Good(tiff(wide.astype(np.int32), t339=2), gray(wide[..., 0] >> 8)),
        "unsigned_32_of_8_bits": Good(tiff(deep(8).astype(np.uint32)), gray(deep(8)[..., 0])),
        "signed_32_of_8_bits": Good(tiff(deep(8).astype(np.int32), t339=2), gray(deep(8)[..., 0])),
    }
    return {f"tiff/{name}": file for name, file in files.items()}


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the payload of each box, by name."""
    found, at = {}, 0
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        found[name] = data[at + 8 : at + length]
        at += length
    return found


def avif_rebuilt(data: bytes, brand: bytes = b"avif", in_idat: bool = False, other: bytes = b"") -> bytes:
    """Return an AVIF file of one item with its boxes written again.

    brand    major brand
    in_idat  store the item in the box idat instead of mdat
    other    further properties of no item
    """
    top = boxes(data)
    meta, item = boxes(top[b"meta"][4:]), top[b"mdat"]
    properties = boxes(meta[b"iprp"])
    fixed = {name: box(name, meta[name]) for name in (b"hdlr", b"pitm", b"iinf")}
    iprp = box(b"iprp", box(b"ipco", properties[b"ipco"], other), box(b"ipma", properties[b"ipma"]))
    start = box(b"ftyp", brand + bytes(4) + b"avifmif1miaf")

    def whole(offset: int) -> bytes:
        locations = b"\1\0\0\0" + struct.pack(">HHHHHH", 0x4400, 1, 1, int(in_idat), 0, 1)
        iloc = box(b"iloc", locations + struct.pack(">II", offset, len(item)))
        stored = [box(b"idat", item)] if in_idat else []
        parts = box(b"meta", bytes(4), fixed[b"hdlr"], fixed[b"pitm"], iloc, fixed[b"iinf"], iprp, *stored)
        return start + parts + (b"" if in_idat else box(b"mdat", item))

    return whole(0) if in_idat else whole(len(whole(0)) - len(item))


def _avifs() -> dict[str, Good]:
    plain = encode(Image.fromarray(scene()), "AVIF", quality=90)
    larger = box(b"ispe", bytes(4), struct.pack(">II", 800, 600))
    files = {
        "rebuilt": avif_rebuilt(plain),
        "in_idat": avif_rebuilt(plain, in_idat=True),
        "with_a_larger_item": avif_rebuilt(plain, other=larger),
        "general_brand": avif_rebuilt(plain, brand=b"mif1"),
    }
    found = {f"avif/{name}": Good(data, decode(plain)) for name, data in files.items()}
    first, second = Image.fromarray(scene()), Image.fromarray(255 - scene())
    moving = encode(first, "AVIF", save_all=True, append_images=[second], quality=90)
    # Without a primary image, there are only the tracks of the sequence.
    sequence = moving.replace(b"meta", b"free", 1)
    return found | {"avif/sequence_only": Good(sequence, decode(plain), 12)}
