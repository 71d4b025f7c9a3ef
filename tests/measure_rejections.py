"""Script: opens each file named on standard input in a process of its own, and prints the cost.

Output is one JSON object per line: name, code ("ok" for an image), message, warnings, seconds of CPU time, and the
increase of peak memory in bytes. The parent process has imported everything and opened one image of each format, so the
increase is due to the file.
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
    """Open an image of each format, so that all code is in memory before the measurement."""
    for data in FILES:
        open_image(data)


def memory(name: str) -> int:
    """Return VmRSS or VmHWM, the current or the peak resident memory, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def measure(path: str) -> dict[str, object]:
    warm_up()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
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
