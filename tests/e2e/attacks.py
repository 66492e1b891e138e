"""Requests that nobody means well by, each with the status that it must get; TLS; compressed answers; the log.
usage: attacks.py CVX WORK_FOLDER, which holds cert.pem and key.pem; exits with 1 if anything is wrong."""
import gzip
import hashlib
import http.client
import json
import os
import socket
import ssl
import struct
import subprocess
import time
import zlib

from service import Service, cvx, finish, form, say, work

KEY = {"Authorization": "Bearer secret"}
JSON = {"Content-Type": "application/json", **KEY}


class Target(Service):
    """Asks with the key, over TLS where the service has it."""

    def open(self):
        host = self.url.split("//")[1].rsplit(":", 1)
        if self.url.startswith("https"):
            return http.client.HTTPSConnection(host[0], int(host[1]), timeout=60,
                                               context=ssl.create_default_context(cafile=f"{work}/cert.pem"))
        return http.client.HTTPConnection(host[0], int(host[1]), timeout=60)

    def call(self, method, path, body=None, headers=None, raw=False):
        c = self.open()
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        told = {**KEY, **({"Content-Type": "application/json"} if isinstance(body, dict) else {}), **(headers or {})}
        c.request(method, path, data, {k: v for k, v in told.items() if v is not None})
        answer = c.getresponse()
        got = answer.read()
        c.close()
        return answer.status, got if raw else json.loads(got or b"null"), answer.headers

    def raw(self, data, wait=10.0):
        """The first line that answers these bytes; None: the connection was closed without a word."""
        host, port = self.url.split("//")[1].rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=wait) as s:
            try:
                s.sendall(data)
                line = s.recv(4096)
            except ConnectionError:
                return None
        return line.split(b"\r\n")[0].decode() or None if line else None


def status(name, s, want, method, path, body=None, headers=None, param="", words=""):
    got, e, told = s.call(method, path, body, headers, raw=True)
    try:
        error = json.loads(e)["error"]
        good = bool(error["message"]) and words in error["message"] and error["type"] and (param == "" or error["param"] == param)
    except ValueError:
        good = False
    say(name, got == want and good, (got, e[:300]))
    return told


def paths(s):
    ident = "video_" + "0" * 32
    for path in ("/v1/videos/../../etc/passwd", "/v1/videos/..%2f..%2f..%2fetc%2fpasswd", "/v1/videos/%2e%2e/%2e%2e/x",
                 f"/v1/videos/{ident}/../content", f"/v1/videos/{ident}%00.mp4", f"/v1/videos/{ident}/content/..", f"/v1/videos/{ident}x",
                 "/v1/videos/" + "a" * 5000, "/v1/videos/%ff%fe", "/v1/videos/", "/v1/jobs/x/cancel/y", "//v1/videos", "/v1/videos/"
                 + ident.upper(), "/v1/models/..%2fshapes", "/index.html", "/v1", "/metrics/x"):
        status(f"404: {path[:60]}", s, 404, "GET", path)
    for method in "PUT", "PATCH", "TRACE", "OPTIONS", "X" * 100:
        told = status(f"405: {method[:10]}", s, 405, method, "/v1/videos")
        say("with Allow", told["Allow"] == "GET, HEAD, POST", told["Allow"])
    head = b"\r\nHost: x\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"
    for line, want in (("GET http://127.0.0.1:1/healthz", 200), ("GET HTTPS://x/v1/videos?limit=1", 200), ("GET http://x", 200), ("GET http://x?limit=0", 200),
                       ("GET http:///v1/models/y", 404), ("GET http://x/healthz/", 404), ("GET ftp://x/healthz", 404)):
        got = s.raw(line.encode() + b" HTTP/1.1" + head)
        say(f"{want}: {line}", got == f"HTTP/1.1 {want} " + {200: "OK", 404: "Not Found"}[want], got)
    got = s.raw(b"GET http://127.0.0.1/v1/videos HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    say("401: no key, by a whole address", got is not None and " 401 " in got, got)
    for query in ("limit=0", "limit=101", "limit=-1", "limit=1e1", "limit=%2b5", "limit=", "limit=99999999999999999999", "order=up",
                  "status=done", "after=x", f"after={ident}%00", "after=%ff"):
        status(f"400: ?{query}", s, 400, "GET", f"/v1/videos?{query}", param=query.split("=")[0])


def keys(s):
    for name, value in [("none", None), ("empty", ""), ("another", "Bearer wrong"), ("its hash", "Bearer " + hashlib.sha256(b"secret").hexdigest()),
                        ("Basic", "Basic c2VjcmV0"), ("a beginning", "Bearer secre"), ("more", "Bearer secret "+"x" * 2000), ("no scheme", "secret")]:
        told = status(f"401: {name}", s, 401, "GET", "/v1/videos", headers={"Authorization": value})
        say("with WWW-Authenticate", told["WWW-Authenticate"] == "Bearer")
    status("401 before a body is read", s, 401, "POST", "/v1/videos", b"{", {**JSON, "Authorization": None})
    with open(f"{work}/keys") as f:
        say("the key itself lies nowhere", "secret" not in f.read())


def edge(boundary):
    return {**KEY, "Content-Type": f"multipart/form-data; boundary={boundary}"}


def bodies(s):
    for method in "PUT", "TRACE", "PATCH":  # what has no use for a body does not look at it
        status(f"405: {method} with no JSON", s, 405, method, "/v1/videos", b"{", JSON)
        status(f"405: {method} with half a picture", s, 405, method, "/v1/plan", b'{"prompt":"x","input_reference":"data:image/png"}', JSON)
    got, v, _ = s.call("GET", "/v1/videos?limit=1", b"{", JSON)
    say("200: GET with no JSON", got == 200 and v["object"] == "list", (got, v))
    for name, want, body, headers, *words in [
        ("no JSON", 400, b"{", JSON), ("no object", 400, b"[]", JSON), ("nothing", 400, b"", JSON), ("a field twice", 400, b'{"prompt":"a","prompt":"b"}', JSON),
        ("no UTF-8", 400, b'{"prompt":"\xff\xfe"}', JSON), ("half a surrogate", 400, b'{"prompt":"\\ud800"}', JSON), ("a zero", 400, b'{"prompt":"a\\u0000b"}', JSON),
        ("500,000 brackets", 400, b'{"prompt":' + b"[" * 500_000, JSON), ("10 MB of prompt", 413, b'{"prompt":"' + b"x" * 10_000_000 + b'"}', JSON),
        ("40 KB of prompt", 400, b'{"prompt":"' + b"x" * 40_000 + b'"}', JSON), ("a number beyond all", 400, b'{"prompt":"x","seed":1e999}', JSON),
        ("30 digits", 400, b'{"prompt":"x","seed":' + b"9" * 30 + b"}", JSON), ("not a number", 400, b'{"prompt":"x","fps":NaN}', JSON),
        ("no type", 415, b'{"prompt":"x"}', KEY), ("another type", 415, b'{"prompt":"x"}', {**KEY, "Content-Type": "text/plain"}),
        ("a form of the old kind", 415, b"prompt=x", {**KEY, "Content-Type": "application/x-www-form-urlencoded"}),
        ("a form without an edge", 400, b"x", {**KEY, "Content-Type": "multipart/form-data"}),
        ("a form of noise", 400, os.urandom(5000), {**KEY, "Content-Type": "multipart/form-data; boundary=x"}),
        ("a form of a single character's edge", 400, b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n', edge("x"), "boundary"),
        ("a form that is cut", 400, b'--xy\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nabc', edge("xy"), "cut short"),
        ("a part without a name", 400, b'--xy\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xy--\r\n', edge("xy"), "no name"),
    ]:
        status(f"{want}: {name}", s, want, "POST", "/v1/videos", body, headers, words=words[0] if words else "")
    for name, want, fields, files in [
        ("a file for a text", 400, {}, {"prompt": ("a", b"b")}), ("two pictures", 400, {"prompt": "x"}, None), ("an unknown field", 400, {"prompt": "x", "y": "z"}, {}),
        ("1,000 fields", 400, {f"f{i}": "x" for i in range(1000)}, {}), ("a long field", 400, {"prompt": "x" * 50_000}, {}), ("a text for a number", 400, {"prompt": "x", "seed": "0x10"}, {}),
        ("a picture for a text-to-video model", 400, {"prompt": "x"}, {"input_reference": ("../../../tmp/x.png", bomb_png(64, 64))}),
        ("40 MB of picture", 413, {"prompt": "x"}, {"input_reference": ("x.png", b"\x89PNG\r\n\x1a\n" + b"x" * 40_000_000)}),
    ]:
        body, kind = form(fields, files if files is not None else {"input_reference": ("a", bomb_png(8, 8))})
        if files is None:  # once more
            body = body.replace(b"--edge-of-a-part--\r\n", body.split(b"\r\n--edge-of-a-part\r\n", 1)[1])
        status(f"{want}: form: {name}", s, want, "POST", "/v1/videos", body, {**KEY, **kind})
    for name, text in ("no UTF-8", b"\xe4\xff"), ("a zero", b"a\0b"):
        body = b'--xy\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + text + b"\r\n--xy--\r\n"
        status(f"400: form: {name}", s, 400, "POST", "/v1/videos", body, edge("xy"), param="prompt", words="UTF-8 without zeros")
    part = b'--xy\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'
    status("400: form: a text twice", s, 400, "POST", "/v1/videos", part * 2 + b"--xy--\r\n", edge("xy"), param="prompt", words="twice")
    body, kind = form({"prompt": "x"}, {"input_reference": ("a.png", b"")})
    status("400: form: an empty picture", s, 400, "POST", "/v1/videos", body, {**KEY, **kind}, param="input_reference")
    body, kind = form({"prompt": "x"}, {"input_reference": ("", b"")})
    got = s.call("POST", "/v1/plan", body, {**KEY, **kind})
    say("a browser's empty field for a file is none", got[0] == 200, got[:2])
    say("no upload is kept", not os.path.exists(f"{s.data}/uploads") or os.listdir(f"{s.data}/uploads") == [])
    got = s.call("POST", "/v1/plan", form({"prompt": "ä" * 100, "seed": "5"}, {})[0], {**KEY, **form({}, {})[1]})
    say("a good form passes", got[0] == 200 and got[1]["fits"], got[:2])


def fields(s):
    """Every field of the document with everything that it is not."""
    doc = s.call("GET", "/openapi.json")[1]
    known = doc["components"]["schemas"]["JobRequest"]["properties"]
    say("the document names the fields", len(known) >= 28, sorted(known))
    for name, schema in known.items():
        kinds = {t for one in [schema, *schema.get("anyOf", [])] for t in ([one["type"]] if isinstance(one.get("type"), str) else one.get("type", []))}
        wrong = [v for kind, v in [("boolean", True), ("object", {"a": 1}), ("array", [[]]), ("array", [1]), ("string", "\u00e9x"), ("number", -7.5)]
                 if kind not in kinds and not (kind == "number" and "integer" in kinds)]
        if "integer" in kinds:
            wrong.append(schema["minimum"] + 0.5)
        wrong += [schema[k] + d for k, d in (("minimum", -1), ("maximum", 1)) if k in schema and schema[k] + d != schema[k]]
        wrong += ["x" * 40000] if "string" in kinds else []
        wrong += [""] if "enum" in schema else []
        for v in wrong:
            got, e, _ = s.call("POST", "/v1/plan", {"prompt": "x", name: v})
            if (got, e.get("error", {}).get("param")) != (400, name):
                say(f"400: {name} = {str(v)[:40]!r}", False, (got, e))
        say(f"400: {name}, of {len(wrong)} wrong kinds", len(wrong) >= 3, wrong)


def named(s):
    """What a plan refuses is told by the request's own names."""
    for given, field, words in (
            ({"max_sequence_length": 1}, "max_sequence_length", "32"), ({"free_noise": True}, "free_noise", "window_frames"),
            ({"enable_tiling": True, "tile_sample_min_height": 17}, "tile_sample_min_height", "17"), ({"extend_only": True}, "extend_only", "needs extend"),
            ({"enable_tiling": True, "tile_sample_min_height": 48, "tile_sample_min_width": 17}, "tile_sample_min_width", "17"), ({"model": "gpt"}, "model", "'shapes'"),
            ({"timeline": ["0: a", "9: b"]}, "timeline", "timeline: needs window_frames"), ({"priority": 0}, "priority", "high, normal or low"),
            ({"input_reference": "http://x/y.png"}, "input_reference", "nothing is fetched")):
        for path in "/v1/plan", "/v1/videos":
            got, e, _ = s.call("POST", path, {"prompt": "x", **given})
            error = e.get("error") or {}
            say(f"{path}: {given}", got == 400 and error["param"] == field and words in error["message"] and "--" not in error["message"] and
                "several timeline" not in error["message"], (got, e))


def parts(s):
    """What is no whole request, or an endless one."""
    say("no HTTP", s.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + b"\0" * 60 + b"\r\n\r\n") is None or True)
    got = s.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 200) for i in range(400)) + b"\r\n")
    say("431: 80 KB of headers", got is None or " 431 " in got, got)
    got = s.raw(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    say("414: a long address", got is None or " 414 " in got or " 431 " in got, got)
    head = b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    got = s.raw(head + b"Content-Length: 99999999999999\r\n\r\n{" + b"x" * 100, wait=20)
    say("413 or 408: a body of 100 TB", got is None or " 413 " in got or " 408 " in got, got)
    for name, start in ("headers", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "), ("a body", head + b"Content-Length: 1000\r\n\r\n{"):
        host, port = s.url.split("//")[1].rsplit(":", 1)
        begun, line = time.time(), b""
        with socket.create_connection((host, int(port)), timeout=30) as c:
            c.sendall(start)
            try:
                while not line and time.time() - begun < 30:
                    c.settimeout(0.3)
                    try:
                        line = c.recv(100)
                        break
                    except TimeoutError:
                        c.sendall(b"a")
            except ConnectionError:
                line = b"closed"
        say(f"408: {name} a byte at a time", time.time() - begun < 20 and (b" 408 " in line or line in (b"", b"closed")), (line, time.time() - begun))
    many = [s.open() for _ in range(60)]
    refused = 0
    for c in many:
        try:
            c.connect()
            c.request("GET", "/healthz")
            c.getresponse().read()
        except (OSError, http.client.HTTPException):
            refused += 1
    for c in many:
        c.close()
    say("more connections than an address may have", 15 <= refused < 60, refused)
    time.sleep(0.5)
    say("then others again", s.call("GET", "/healthz")[0] == 200)


def compressed(s):
    def get(path, accept):
        got, data, told = s.call("GET", path, headers={"Accept-Encoding": accept}, raw=True)
        return got, data, told

    for path in "/", "/metrics", "/openapi.json", "/v1/videos?limit=100":
        _, plain, told = get(path, "identity")
        say(f"{path}: as it is", "Content-Encoding" not in told and told["Vary"] == "Accept-Encoding", dict(told))
        _, data, told = get(path, "br, gzip;q=0.5")
        if len(plain) < 512:  # not worth it
            say(f"{path}: too small", "Content-Encoding" not in told, len(plain))
            continue
        say(f"{path}: gzip", told["Content-Encoding"] == "gzip" and len(data) < len(plain) and told["Vary"] == "Accept-Encoding", dict(told))
        same = gzip.decompress(data)
        say(f"{path}: the same text", same == plain or path == "/metrics" and same[:100] == plain[:100], same[:100])
    for accept, want in (("gzip;q=0", False), ("*", True), ("*;q=0", False), ("gzip;q=0.2, identity;q=0.9", False), ("x-gzip", False), ("GZIP", True),
                         ("deflate", False), ("identity;q=0.1, *;q=0.5", True), ("gzip ; q=1.0", True), ("", False)):
        say(f"Accept-Encoding: {accept!r}", ("Content-Encoding" in get("/openapi.json", accept)[2]) == want)
    got, data, told = s.call("HEAD", "/openapi.json", raw=True)
    say("HEAD", got == 200 and data == b"" and int(told["Content-Length"]) > 1000, dict(told))


def bomb_png(w, h, rows=1):
    """A PNG that says it is w x h, with so many rows of it."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(b"\0" * ((w * 3 + 1) * rows))) + chunk(b"IEND", b""))


def text_bomb():
    """A PNG whose text unpacks to 200 MB."""
    data = b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000, 9)
    good = bomb_png(96, 64, 64)
    return good[:33] + struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data)) + good[33:]


def jpeg(w, h, scans=0):
    """A JPEG that says it is w x h; scans: a progressive one with so many of them, all empty."""
    frame = struct.pack(">HBHHB", 11, 8, h, w, 1) + b"\x01\x11\x00"
    table = b"\xff\xdb" + struct.pack(">H", 67) + b"\0" + b"\x01" * 64
    huff = b"\xff\xc4" + struct.pack(">H", 20) + b"\x00" + b"\x01" + b"\0" * 15 + b"\x00"
    huff += b"\xff\xc4" + struct.pack(">H", 20) + b"\x10" + b"\x01" + b"\0" * 15 + b"\x00"
    scan = b"\xff\xda" + struct.pack(">H", 8) + b"\x01\x01\x00" + (b"\0\0\0" if scans else b"\0\x3f\0")
    return b"\xff\xd8" + table + (b"\xff\xc2" if scans else b"\xff\xc0") + frame + huff + (scan + b"\0" * 10) * max(scans, 1) + b"\xff\xd9"


def pictures(s):
    more = {"prompt": "x", "size": "96x64", "num_frames": "9", "num_inference_steps": "2"}
    for name, data in [
        ("a PNG of 16384 x 16384", bomb_png(16384, 16384)), ("a PNG of 2^31 - 1 pixels a side", bomb_png(2**31 - 1, 1, 0)), ("a PNG of 12000 x 12000", bomb_png(12000, 12000)),
        ("a JPEG of 65500 x 65500", jpeg(65500, 65500)), ("a JPEG of 16000 x 16000", jpeg(16000, 16000)), ("a JPEG of 8000 scans", jpeg(512, 512, 8000)),
        ("a PNG without rows", bomb_png(96, 64, 0)), ("a GIF", b"GIF89a" + b"\xff" * 100), ("a playlist", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("half a WebP", b"RIFF\xff\xff\xff\x7fWEBPVP8 " + b"\xff" * 50), ("one byte", b"\x89"),
    ]:
        body, kind = form(more, {"input_reference": ("x.png", data)})
        begun = time.time()
        status(f"400: {name}", s, 400, "POST", "/v1/videos", body, kind, param="input_reference")
        say("at once", time.time() - begun < 15, time.time() - begun)
    body, kind = form(more, {"input_reference": ("x.png", text_bomb())})
    got = s.call("POST", "/v1/videos", body, kind)
    say("a PNG whose text unpacks to 200 MB: refused, or the text is left out", got[0] in (200, 400), got)
    body, kind = form(more, {"input_reference": ("x.png", bomb_png(96, 64, 64))})
    got = s.call("POST", "/v1/videos", body, kind)
    say("a good one is taken", got[0] == 200 and got[1]["cvx"]["input_reference"], got)
    for v in s.call("GET", "/v1/videos")[1]["data"]:
        s.call("POST", f"/v1/jobs/{v['id']}/cancel")
    status("400: no picture", s, 400, "POST", "/v1/videos", {"prompt": "x", "size": "96x64", "num_frames": 9}, param="input_reference")
    got, e, _ = s.call("POST", "/v1/plan", *form({"prompt": "x"}, {"input_reference": ("x.png", b"\x89PNG\r\n\x1a\n" + b"x" * 50)}))
    say("errors name no folder", got == 400 and work not in json.dumps(e) and "/uploads" not in json.dumps(e), e)


def foreign(s):
    """A page from elsewhere in a browser on this machine, where there are no keys."""
    for name, headers in ("a name that leads here", {"Host": "evil.example"}), ("a form of its own", {"Origin": "https://evil.example"}), ("a file", {"Origin": "null"}):
        body, kind = form({"prompt": "x"}, {})
        status(f"403: {name}", s, 403, "POST", "/v1/plan", body, {**kind, **headers})
    say("the dashboard's own", s.call("GET", "/v1/videos", headers={"Origin": s.url})[0] == 200)


def tls(s):
    say("https", s.url.startswith("https://127.0.0.1:") and s.call("GET", "/healthz")[0] == 200)
    port = int(s.url.rsplit(":", 1)[1])
    try:
        http.client.HTTPSConnection("127.0.0.1", port, timeout=20).request("GET", "/healthz")
        say("a certificate that nobody vouches for", False)
    except ssl.SSLError:
        say("a certificate that nobody vouches for", True)
    say("plain http is none", s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") is None)
    for name, args, want in ("--cacert", ["--cacert", f"{work}/cert.pem"], 0), ("without", [], 3), ("no such file", ["--cacert", f"{work}/none"], 3):
        run = subprocess.run([cvx, "list", "--server", s.url, *args], capture_output=True, text=True)
        say(f"cvx list over https: {name}", run.returncode == want and (want == 0) == (run.stderr == ""), (run.returncode, run.stderr))
    for name, args, words in [("a key alone", ["--tls-key", f"{work}/key.pem"], "one needs the other"),
                              ("no checkpoint", ["--model", "docs"], "--model docs: no model_index.json"),
                              ("no PEM", ["--tls-cert", f"{work}/keys", "--tls-key", f"{work}/keys"], "--tls-cert"),
                              ("no file", ["--tls-cert", f"{work}/none", "--tls-key", f"{work}/none"], f"{work}/none")]:
        run = subprocess.run([cvx, "serve", "--model", "models/shapes", "--data-dir", f"{work}/never", "--port", "0", *args], capture_output=True, text=True, timeout=60)
        say(f"refused: {name}", run.returncode != 0 and words in run.stderr and run.stdout == "", run)


def many_keys():
    """As many keys as there may be, and one more."""
    for n, words in (256, None), (257, "more than 256 keys"):
        with open(f"{work}/many", "w") as f:
            f.writelines(f"key{i} {hashlib.sha256(b'%d' % i).hexdigest()}\n" for i in range(n))
            f.write("# the end\n")
        run = subprocess.run([cvx, "serve", "--model", "models/shapes", "--data-dir", f"{work}/never", "--port", "0", "--api-keys", f"{work}/many",
                              "--tls-cert", f"{work}/none", "--tls-key", f"{work}/none"], capture_output=True, text=True, timeout=60)
        say(f"{n} keys", (words or f"{work}/none") in run.stderr, run)  # what comes after the keys is looked at, or not


def redis_of_its_own():
    """cvx serve with a Redis that somebody else has started."""
    os.mkdir(f"{work}/redis")
    redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", f"{work}/redis/s", "--dir", f"{work}/redis", "--save", "", "--appendonly", "yes",
                              "--logfile", f"{work}/redis/log"])
    while not os.path.exists(f"{work}/redis/s"):
        time.sleep(0.05)
    s = Target(f"{work}/other", "--redis", f"unix://{work}/redis/s")
    _, v, _ = s.create(num_inference_steps=1)
    say("cvx serve --redis", s.wait(v["id"])["status"] == "completed" and s.stop() == 0, v)
    redis.terminate()
    redis.wait(30)


def log(text, data):
    lines = [json.loads(line) for line in text.splitlines()]
    say("the log is JSON", len(lines) > 100 and all({"time", "level", "program", "pid", "message"} <= set(line) for line in lines), text[:500])
    asked = [line for line in lines if line["level"] == "debug" and "status" in line]
    say("a line for a request", any(line["status"] == 405 and line["seconds"] >= 0 and line["message"].startswith("PUT /v1/videos") for line in asked), asked[:3])
    made = [line for line in lines if "queued" in line["message"]]
    say("a job's id on its lines", bool(made) and all(line["job"].startswith("video_") for line in made), made)
    say("no key in it", "secret" not in text)
    with open(f"{data}/cvx.log") as f:
        pool = [json.loads(line) for line in f]
    say("the pool's, too", bool(pool) and all(line["program"] == "cvx-rank" for line in pool), pool[:2])


def main():
    with open(f"{work}/keys", "w") as f:
        f.write(f"me {hashlib.sha256(b'secret').hexdigest()}\n")
    path = f"{work}/log.jsonl"
    with open(path, "w") as f:
        s = Target(f"{work}/data", "--api-keys", f"{work}/keys", "--request-timeout", "3", "--max-connections-per-address", "40", "--log-format",
                   "json", "--log-level", "debug", stderr=f)
        for part in paths, keys, bodies, fields, named, parts, compressed:
            part(s)
        _, v, _ = s.create(num_inference_steps=900)
        s.call("POST", f"/v1/jobs/{v['id']}/cancel")
        s.wait(v["id"])
        say("the service lives", s.call("GET", "/readyz")[0] == 200 and s.stop() == 0)
    with open(path) as f:
        log(f.read(), f"{work}/data")
    s = Target(f"{work}/tls", "--request-timeout", "5", "--tls-cert", f"{work}/cert.pem", "--tls-key", f"{work}/key.pem", model="tests/data/variants/tiny-5b-i2v")
    for part in tls, pictures, foreign:
        part(s)
    say("the service lives", s.stop() == 0)
    many_keys()
    redis_of_its_own()
    finish()


main()
