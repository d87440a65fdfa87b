"""A small OpenAI-compatible completions server that misbehaves as told. Standard library only: it starts at once.

    python completions_server.py PORT LOG [PLAN ...]

Each word of the plan is what happens to one request, in the order of their arrival; further requests are answered:
``ok``, a status (``500``, or ``429:0.3`` with ``Retry-After: 0.3``), ``garbage`` (no JSON), ``shape`` (JSON of another
shape), ``hang`` (no answer), ``drop`` (the connection is cut), ``die`` (the process ends). ``slow`` anywhere in the
plan lets every request take 0.2 s. Requests of one token, with which a client asks what a server speaks, are not
counted. Every other request is a line of LOG: time, body, requests in flight.

The answer depends on the prompt and the seed alone, so that a test can tell whose it is.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: ClassVar[list[str]] = []
    log: Path
    slow = False
    flying = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        self.models()

    def do_POST(self) -> None:
        self.complete(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def models(self) -> None:
        self.reply(200, {"data": [{"id": "served", "max_model_len": 300}, {"id": "another"}]})

    def complete(self, body: dict[str, Any]) -> None:
        if body["model"] != "served":
            self.reply(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
            return
        word = "ok"
        with self.lock:
            Handler.flying += 1
            if body["max_tokens"] > 1:
                word = self.plan.pop(0) if self.plan else "ok"
                line = {"time": time.time(), "body": body, "flying": self.flying, "key": self.headers["Authorization"]}
                with self.log.open("a") as log:
                    log.write(json.dumps(line) + "\n")
        try:
            if self.slow and body["max_tokens"] > 1:
                time.sleep(0.2)
            self.behave(word, body)
        finally:
            with self.lock:
                Handler.flying -= 1

    def behave(self, word: str, body: dict[str, Any]) -> None:
        status, _, wait = word.partition(":")
        if word == "die":
            os._exit(1)
        elif word == "hang":
            time.sleep(30)
        elif word == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif word == "garbage":
            self.reply(200, "<html>busy</html>")
        elif word == "shape":
            self.reply(200, {"choices": []})
        elif status.isdigit():
            self.reply(int(status), {"error": {"message": f"planned {status}"}}, {"Retry-After": wait} if wait else {})
        else:
            choice = {"text": said(body["prompt"], body["seed"]), "finish_reason": "stop", "stop_reason": None}
            self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 7}})

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def said(prompt: list[int], seed: int) -> str:
    return f"{sum(i * token for i, token in enumerate(prompt, 1))} {seed}"


if __name__ == "__main__":
    Handler.log = Path(sys.argv[2])
    Handler.slow = "slow" in sys.argv
    Handler.plan = [word for word in sys.argv[3:] if word != "slow"]
    ThreadingHTTPServer.request_queue_size = 64
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
