"""The service as a child process, for the tests that drive it. Their arguments: CVX WORK_FOLDER. They print `ok NAME` or
`WRONG NAME: what` a line."""
import atexit
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

cvx, work = sys.argv[1:3]
bad = 0 # how many things were wrong


def say(name, good, what=""):
    global bad
    bad += not good
    print(f"{'ok   ' if good else 'WRONG'} {name}{'' if good else ': ' + str(what)}", flush=True)


class Service:
    """The service as a child process, on a port of its own choice."""

    def __init__(self, data, *more, model="models/shapes", stderr=None):
        begun = time.time()
        self.data = data
        self.process = subprocess.Popen(
            [cvx, "serve", "--model", model, "--data-dir", data, "--port", "0", *more],
            stdout=subprocess.PIPE, stderr=stderr, text=True)
        atexit.register(self.process.terminate)  # also where the test breaks off
        line = self.process.stdout.readline()
        self.url = line.split()[1] if line.startswith("cvx: http") else None
        self.wait_ready()
        self.seconds = time.time() - begun

    def wait_ready(self):
        for _ in range(600):
            try:
                if self.call("GET", "/readyz")[0] == 200:
                    return
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.05)
        say("the service becomes ready", False, self.tail())

    def tail(self):
        with open(f"{self.data}/cvx.log", errors="replace") as f:
            return f.read()[-3000:]

    def call(self, method, path, body=None, headers=None, raw=False):
        headers = dict(headers or {})
        data = body
        if isinstance(body, dict):
            data = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, got, told = answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as e:
            status, got, told = e.code, e.read(), e.headers
        return status, got if raw else json.loads(got), told

    def create(self, **fields):
        fields.setdefault("prompt", "a red circle moving right on a white background")
        fields.setdefault("num_inference_steps", 3)
        return self.call("POST", "/v1/videos", fields)

    def wait(self, video, states=("completed", "failed", "cancelled"), seconds=400):
        end = time.time() + seconds
        while time.time() < end:
            _, v, told = self.call("GET", f"/v1/videos/{video}")
            if v.get("status") in states:
                return v
            time.sleep(0.05)
        return v

    def pool_process(self):
        """The process that computes, by the pool's name."""
        name = self.call("GET", "/v1/pools")[1]["data"][0]["id"]
        return int(name.rsplit("-", 1)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def form(fields, files):
    """A multipart body and its type."""
    edge, parts = "edge-of-a-part", []
    for name, value in fields.items():
        parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, (file, data) in files.items():
        parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'
                     f'Content-Type: image/png\r\n\r\n'.encode() + data + b"\r\n")
    return b"".join(parts) + f"--{edge}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={edge}"}


def finish():
    sys.exit(1 if bad else 0)
