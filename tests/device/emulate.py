#!/usr/bin/env python3
"""A .cu file as C++ whose kernels run on the host: kernel<<<...>>>(...) becomes device_launch(kernel, ...)(...), and shared
memory of a size that the launch gives is the block's room (fibers.h). Usage: emulate.py IN.cu OUT.cc"""
import re
import sys


def template_begin(text, end):
    """The index where the name before text[end] begins; text[end - 1] may close its template arguments."""
    i = end
    if text[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            depth += {">": 1, "<": -1}.get(text[i], 0)
            if depth == 0:
                break
    return re.search(r"\w+\s*$", text[:i]).start()


def main(source, out):
    text = open(source).read()
    text = re.sub(r"extern __shared__ (?:__align__\(\d+\) )?(\w+) (\w+)\[\];", r"\1 *\2 = (\1 *)device.room;", text)
    at = text.find("<<<")
    while at >= 0:
        name_end = len(text[:at].rstrip())
        begin = template_begin(text, name_end)
        end = text.index(">>>", at)
        text = (text[:begin] + "device_launch(" + text[begin:name_end] + ", " + text[at + 3 : end] + ")" + text[end + 3 :])
        at = text.find("<<<")
    with open(out, "w") as f:
        f.write(f'#include "tests/device/launch.h"\n#line 1 "{source}"\n{text}')


main(sys.argv[1], sys.argv[2])
