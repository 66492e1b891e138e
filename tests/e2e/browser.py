"""Headless Chromium, driven through its DevTools protocol over a pipe: no package is needed. What a person does is done with
mouse and keyboard events; what a person sees is asked of the page."""
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time


def find():
    return next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


class Browser:
    def __init__(self, program):
        self.profile = tempfile.mkdtemp()
        # it reads messages from 3 and writes them to 4: the pipes' own ends are kept off these numbers
        ends = os.pipe() + os.pipe()
        read, self.out, self.inp, write = (fcntl.fcntl(e, fcntl.F_DUPFD_CLOEXEC, 10) for e in ends)
        for e in ends:
            os.close(e)
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", program, "--headless", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
             "--disable-background-networking", f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(read)
        os.close(write)
        self.rest, self.number, self.session = b"", 0, None
        self.errors = []  # what the page's console complained of
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in "Page", "Runtime", "Log", "DOM":
            self.send(domain + ".enable")

    def receive(self):
        while b"\0" not in self.rest:
            if not select.select([self.inp], [], [], 60)[0]:
                raise RuntimeError("the browser has said nothing for a minute")
            more = os.read(self.inp, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self.rest += more
        one, self.rest = self.rest.split(b"\0", 1)
        return json.loads(one)

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            got = self.receive()
            if got.get("id") == self.number:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']}")
                return got["result"]
            self.note(got)

    def note(self, event):
        p = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(p["exceptionDetails"].get("exception", {}).get("description", p["exceptionDetails"]["text"]))
        elif event["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in p["args"]))
        elif event["method"] == "Log.entryAdded" and p["entry"]["level"] == "error":
            self.errors.append(f"{p['entry']['text']} {p['entry'].get('url', '')}")

    def js(self, code):
        got = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"{code}: {got['exceptionDetails']}")
        return got["result"].get("value")

    def wait(self, code, seconds=60):
        """Whether it becomes true."""
        end = time.time() + seconds
        while time.time() < end:
            if self.js(code):
                return True
            time.sleep(0.1)
        return False

    def open(self, url, width, height, dark=False):
        self.size(width, height)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def place(self, selector, across=0.5):
        """A point of the element, scrolled into view; it must not be covered by another."""
        at = self.js(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            if (!e) return "no such element";
            e.scrollIntoView({{ block: "center" }});
            const b = e.getBoundingClientRect(), x = b.left + b.width * {across}, y = b.top + b.height / 2;
            const top = document.elementFromPoint(x, y);
            return b.width && (e === top || e.contains(top)) ? [x, y] : "hidden, or covered by " + (top && top.outerHTML.slice(0, 80)); }})()""")
        if isinstance(at, str):
            raise RuntimeError(f"{selector}: {at}")
        return at

    def click(self, selector, across=0.5):
        x, y = self.place(selector, across)
        for kind in "mouseMoved", "mousePressed", "mouseReleased":
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="none" if kind == "mouseMoved" else "left",
                      buttons=int(kind == "mousePressed"), clickCount=int(kind != "mouseMoved"))

    def key(self, name):
        for kind in "keyDown", "keyUp":
            more = {"text": "\r"} if name == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode={
                "Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}[name], **more)

    def type(self, selector, text):
        """Into a field, in place of what it holds."""
        self.click(selector)
        self.js(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", text=text)

    def attach(self, selector, path):
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[os.path.abspath(path)])

    def picture(self, path):
        """The whole page as a PNG."""
        height = self.js("document.documentElement.scrollHeight")
        width = self.js("innerWidth")
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": width, "height": height, "scale": 1})["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    def close(self):
        session, self.session = self.session, None
        try:
            self.send("Browser.close")
            self.process.wait(20)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        del session
        shutil.rmtree(self.profile, ignore_errors=True)
