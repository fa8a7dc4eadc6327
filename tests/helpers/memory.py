"""Memory of this process."""


def resident_kb(path):
    """Resident kilobytes of the mappings of a file."""
    found, here = 0, False
    with open("/proc/self/smaps", encoding="utf-8") as lines:
        for line in lines:
            if "-" in line.split(maxsplit=1)[0]:
                here = line.rstrip("\n").endswith(str(path))
            elif here and line.startswith("Rss:"):
                found += int(line.split()[1])
    return found
