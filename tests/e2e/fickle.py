"""A service that is away again and again while one job is given to it, watched and fetched; it prints its port, then the form's
fields that it was sent. usage: fickle.py"""
import email
import email.policy
import http.server
import json
import socket
import time

ID = "video_" + "0" * 32
gone = 0  # seconds that nobody listens after this answer
refused = []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def answer(self, status, kind, data, away=0.0, **more):
        global gone
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **more}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)
        gone = away

    def do_POST(self):
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + self.rfile.read(int(self.headers["Content-Length"])), policy=email.policy.HTTP)
        fields = {}
        for part in form.iter_parts():
            name = part.get_param("name", header="content-disposition")
            fields.setdefault(name, []).append(len(part.get_payload(decode=True)) if part.get_filename() else part.get_content().strip())
        print(json.dumps(fields), flush=True)
        self.answer(200, "application/json", json.dumps({"id": ID, "status": "queued", "cvx": {}}).encode(), 1.5)

    def do_GET(self):
        if self.path.endswith("/events"):
            self.answer(200, "text/event-stream", b'id: 1-0\nevent: state\ndata: {"status": "completed", "error": null}\n\n', 1.5)
        elif len(refused) < 2:
            refused.append(self.path)
            self.answer(503, "application/json", b'{"error": {"message": "Redis is away"}}', len(refused) - 1, Retry_After=1)
        else:
            self.answer(200, "video/mp4", b"the video")

    def log_message(self, *args):
        pass


def main():
    port = 0
    while True:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            s.listen()
            if port == 0:
                print(port := s.getsockname()[1], flush=True)
            c, _ = s.accept()
        Handler(c, c.getpeername(), None)
        c.close()
        time.sleep(gone)


main()
