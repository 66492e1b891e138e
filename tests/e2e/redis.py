"""A few lines that talk to Redis as it is, and what docs/redis.md says of its keys."""
import re
import socket


class Redis:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def __call__(self, *args):
        parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.reply()

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise OSError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            n = int(rest)
            return None if n < 0 else self.file.read(n + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))] if int(rest) >= 0 else None
        return rest

    def keys(self):
        found, cursor = [], b"0"
        while True:
            cursor, some = self("SCAN", cursor, "COUNT", 1000)
            found += some
            if cursor == b"0":
                return sorted(set(found))


PLACES = {"ID": "video_[0-9a-f]{32}", "OWNER": "[A-Za-z0-9._-]+", "KEY": ".+", "NAME": "[A-Za-z0-9._-]+", "MINUTE": "[0-9]+",
          "STATE": "(queued|in_progress|completed|failed|cancelled)"}


def documented():
    """(pattern, type, life) of the keys that docs/redis.md names."""
    rows = []
    with open("docs/redis.md") as f:
        for line in f:
            cells = [c.strip() for c in line.strip().strip("|").split("|")]
            if len(cells) == 4 and cells[0].startswith("`cvx:"):
                names, kinds = re.findall("`([^`]+)`", cells[0]), cells[1].split(", ")
                for i, name in enumerate(names):
                    pattern = re.sub("[A-Z]{2,}", lambda m: PLACES[m.group()], name)
                    rows.append((re.compile(pattern.encode() + b"$"), kinds[min(i, len(kinds) - 1)], cells[3]))
    return rows


def check_keys(redis, say):
    """Every key is documented, of the type and with the life that is said, and no longer than its bound."""
    rows, wrong = documented(), []
    for key in redis.keys():
        kind = redis("TYPE", key).decode()
        fits = [r for r in rows if r[0].match(key)]
        ttl = redis("PTTL", key)
        if not fits or not any(kind == r[1] for r in fits):
            wrong.append((key, kind, "not in docs/redis.md"))
            continue
        life = next(r[2] for r in fits if r[1] == kind)
        seconds = re.match(r"([0-9,]+) s\b", life)
        if (seconds is not None) != (ttl >= 0):
            wrong.append((key, ttl, life))
        elif seconds and ttl > 1000 * int(seconds.group(1).replace(",", "")):
            wrong.append((key, ttl, life))
        entries = re.search(r"about ([0-9,]+) entries", life)
        if entries and kind == "stream" and redis("XLEN", key) > 1.1 * int(entries.group(1).replace(",", "")):
            wrong.append((key, redis("XLEN", key), life))
    say("every key of Redis is as docs/redis.md says", not wrong, wrong[:10])
