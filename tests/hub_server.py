"""A stand-in for the Hugging Face Hub on 127.0.0.1: the part of its HTTP interface that pushing and fetching a model uses."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)  # USER/NAME: the files of its one commit
    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, content: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self.chunked()
            path = self.path.split("?")[0].strip("/")
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            parts = path.split("/")
            if path == "api/repos/create":
                made = json.loads(body)
                repo = f"{made['organization']}/{made['name']}"
                hub.repos.setdefault(repo, {})
                hub.private[repo] = bool(made.get("private")) or made.get("visibility") == "private"
                self.answer({"url": f"{hub.endpoint}/{repo}", "id": repo, "name": repo})
            elif path == "api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif parts[:2] == ["api", "models"]:
                self.of_model("/".join(parts[2:4]), parts[4], body)
            elif path.endswith("info/lfs/objects/batch"):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.endpoint}/store/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                self.answer({"transfer": "basic", "objects": objects})
            elif parts[0] == "store":
                hub.stored[hashlib.sha256(body).hexdigest()] = body
                self.answer({})
            elif "resolve" in parts and parts[-1] in hub.repos.get("/".join(parts[:2]), {}):
                content = hub.repos["/".join(parts[:2])][parts[-1]]
                tag = hashlib.sha256(content).hexdigest()
                self.answer(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"})
            else:
                self.answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        do_GET = do_HEAD = do_POST = do_PUT = do

        def chunked(self) -> bytes:
            found = b""
            while self.headers.get("Transfer-Encoding") == "chunked":
                size = int(self.rfile.readline(), 16)
                found += self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    break
            return found

        def of_model(self, repo: str, what: str, body: bytes) -> None:
            if repo not in hub.repos:
                self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif what == "preupload":
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self.answer({"files": files})
            elif what == "commit":
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.repos[repo][value["path"]] = hub.stored[value["oid"]]
                self.answer(
                    {"success": True, "commitOid": SHA, "commitUrl": f"{hub.endpoint}/{repo}/commit/{SHA}", "hookOutput": ""}
                )
            elif what == "tree":
                files = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in hub.repos[repo].items()
                ]
                self.answer(files)
            else:
                self.answer({"id": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in hub.repos[repo]], "tags": []})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
