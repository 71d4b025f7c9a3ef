"""A program: opens each file named on standard input in a process of its own, and tells what it cost.

One JSON object a line: name, code ("ok" for a picture), message, warnings, seconds of processor time, extra bytes of
memory at the peak. The parent has imported everything and opened one picture of each format, so that what a child
needs more is the file's doing.
"""

import json
import os
import resource
import sys
import warnings

from image_files import good

from vitkit.images import ImageError, open_image

NAMES = (
    "jpeg/plain",
    "jpeg/no_end_marker",
    "png/rgb",
    "gif/palette",
    "bmp/RGB",
    "tiff/deflate",
    "webp/lossy",
    "avif/plain",
)
FILES = [good()[name].data for name in NAMES]


def warm_up() -> None:
    """Open a picture of each format, so that the code for it is in memory before anything is measured."""
    for data in FILES:
        open_image(data)


def memory(name: str) -> int:
    """VmRSS or VmHWM, resident memory now and at its peak, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def measure(path: str) -> dict[str, object]:
    warm_up()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before, used = memory("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            open_image(path)
            code, message = "ok", ""
        except ImageError as error:
            code, message = error.code, str(error)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "name": path,
        "code": code,
        "message": message,
        "warnings": [str(warning.message) for warning in caught],
        "seconds": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
        "memory": memory("VmHWM") - before,
    }


def main() -> None:
    warm_up()
    for line in sys.stdin.read().splitlines():
        child = os.fork()
        if child == 0:
            print(json.dumps(measure(line)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"name": line, "code": f"died of {status}"}), flush=True)


if __name__ == "__main__":
    main()
