"""A Hub on this machine: the routes that `huggingface_hub` and `datasets` use, in memory, with
faults to order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretsecretsecretsecretsecretsecr"  # noqa: S105 - of this server alone
REPO = r"(?P<repo>[^/]+/[^/]+)"
NOT_LFS = (".md", ".json", ".gitattributes")


@dataclass
class Fault:
    """What happens to the next `times` requests of a route: a status, `"cut"` half-way through the
    body, or seconds of delay.
    """

    route: str
    what: int | str | float
    times: int = 1
    after: bool = False
    """Whether a status is answered only after the request was carried out."""


@dataclass
class Repository:
    """Commits as whole trees, and names for them."""

    private: bool = False
    kind: str = "dataset"
    """What it was made as; both kinds answer under the addresses of both."""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        return (
            self.branches.get(revision)
            or self.tags.get(revision)
            or (revision if revision in self.commits else None)
        )

    def commit(self, branch: str, tree: dict[str, bytes]) -> str:
        """Add a commit to a branch."""
        oid = git_oid(f"{len(self.commits)} {id(self)} {time.time_ns()}".encode())
        self.commits[oid] = tree
        self.branches[branch] = oid
        return oid

    @property
    def files(self) -> dict[str, bytes]:
        """What the main branch holds."""
        return self.commits[self.branches["main"]]


class HubServer:
    """The server, its repositories, and what it was asked."""

    def __init__(self) -> None:
        self.reset()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forget everything."""
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.role = "write"

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(
        self, route: str, what: int | str | float, times: int = 1, *, after: bool = False
    ) -> None:
        """Order a fault."""
        self.faults.append(Fault(route, what, times, after))

    def fault(self, route: str) -> Fault | None:
        """The fault that this request meets."""
        for fault in self.faults:
            if fault.route == route and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def git_oid(content: bytes) -> str:
    """Name of a blob in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_lfs(path: str) -> bool:
    """Whether the file is stored apart."""
    return not path.endswith(NOT_LFS)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    routes = (
        ("GET", rf"/api/(?:datasets|models)/{REPO}(?:/revision/(?P<revision>.+))?", "info"),
        (
            "GET",
            rf"/api/(?:datasets|models)/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?",
            "tree",
        ),
        ("POST", rf"/api/(?:datasets|models)/{REPO}/paths-info/(?P<revision>.+)", "paths"),
        ("GET", rf"/api/(?:datasets|models)/{REPO}/refs", "refs"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("DELETE", r"/api/repos/delete", "delete"),
        ("POST", rf"/api/(?:datasets|models)/{REPO}/preupload/(?P<revision>.+)", "preupload"),
        ("POST", rf"(?:/datasets)?/{REPO}\.git/info/lfs/objects/batch", "lfs"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "upload"),
        ("POST", rf"/api/(?:datasets|models)/{REPO}/commit/(?P<revision>.+)", "commit"),
        ("POST", rf"/api/(?:datasets|models)/{REPO}/branch/(?P<revision>.+)", "branch"),
        ("POST", rf"/api/(?:datasets|models)/{REPO}/tag/(?P<revision>.+)", "tag"),
        ("POST", r"/api/validate-yaml", "yaml"),
        ("GET", rf"(?:/datasets)?/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def handle_any(self) -> None:
        """Find the route, meet a fault if one is ordered, else answer."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._read_chunks()
        split = urlsplit(self.path)
        self.options = {name: values[-1] for name, values in parse_qs(split.query).items()}
        method = "GET" if self.command == "HEAD" else self.command
        tried = (
            (name, re.fullmatch(pattern, split.path))
            for wanted, pattern, name in self.routes
            if wanted == method
        )
        name, found = next(((name, found) for name, found in tried if found), ("", None))
        if found is None:
            self.reply(404, {"error": f"no route {self.command} {self.path}"})
            return
        self.hub.asked.append(name)
        fault = self.hub.fault(name) if self.command != "HEAD" else None
        self.is_cut = fault is not None and fault.what == "cut"
        if fault and isinstance(fault.what, float):
            time.sleep(fault.what)
        if fault and isinstance(fault.what, int) and not fault.after:
            self.reply(fault.what, {"error": "ordered"})
            return
        self.instead = fault.what if fault and isinstance(fault.what, int) else None
        parts = {
            key: unquote(value) for key, value in found.groupdict().items() if value is not None
        }
        repo = parts.pop("repo", None)
        if repo is not None:
            repository = self.hub.repositories.get(repo)
            if repository is None or (repository.private and not self.is_known()):
                self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                return
            self.name, self.repository = repo, repository
        if (
            method in ("POST", "PUT", "DELETE")
            and name not in ("yaml", "paths", "upload")
            and not self.is_known()
        ):
            self.reply(401, {"error": "Invalid username or password."})
            return
        getattr(self, f"on_{name}")(**parts)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any  # noqa: N815 - as the base class calls them

    def is_known(self) -> bool:
        """Whether the request bears the token."""
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON, or with bytes as they are."""
        status = getattr(self, "instead", None) or status
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if getattr(self, "is_cut", False) else body)
        if getattr(self, "is_cut", False):
            self.close_connection = True

    def tree(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files, or an answer that there is none."""
        commit = self.repository.resolve(revision)
        if commit is None:
            self.reply(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, self.repository.commits[commit]

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        """A file as a listing has it."""
        found = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if is_lfs(path):
            found["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            }
        return found

    def on_info(self, revision: str = "main") -> None:
        found = self.tree(revision)
        if found:
            commit, files = found
            siblings = [{"rfilename": path} for path in sorted(files)]
            private = self.repository.private
            self.reply(
                200,
                {
                    "id": self.name,
                    "sha": commit,
                    "private": private,
                    "siblings": siblings,
                    "tags": [],
                    "downloads": 0,
                },
            )

    def on_whoami(self) -> None:
        if self.is_known():
            self.reply(200, {"name": "me", "auth": {"accessToken": {"role": self.hub.role}}})
        else:
            self.reply(401, {"error": "Invalid user token."})

    def on_refs(self) -> None:
        named = {
            kind: [{"name": name, "ref": name, "targetCommit": oid} for name, oid in found.items()]
            for kind, found in (
                ("branches", self.repository.branches),
                ("tags", self.repository.tags),
            )
        }
        self.reply(200, {**named, "converts": []})

    def on_tree(self, revision: str, path: str = "") -> None:
        found = self.tree(revision)
        if not found:
            return
        inside = {
            name: content
            for name, content in found[1].items()
            if not path or name.startswith(f"{path}/")
        }
        if path and not inside:
            self.reply(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        start = len(path) + 1 if path else 0
        deep = self.options.get("recursive", "").lower() == "true"
        folders = {name[: name.index("/", start)] for name in inside if "/" in name[start:]}
        if deep:
            folders = {
                "/".join(name.split("/")[:depth])
                for name in inside
                for depth in range(1, name.count("/") + 1)
            }
        entries = [
            {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
            for name in sorted(folders)
            if name != path
        ]
        entries += [
            self.entry(name, content)
            for name, content in sorted(inside.items())
            if deep or "/" not in name[start:]
        ]
        self.reply(200, entries)

    def on_paths(self, revision: str) -> None:
        found = self.tree(revision)
        if found:
            asked = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
            paths = asked["paths"] if isinstance(asked["paths"], list) else [asked["paths"]]
            entries = [self.entry(path, found[1][path]) for path in paths if path in found[1]]
            folders = [
                path for path in paths if any(name.startswith(f"{path}/") for name in found[1])
            ]
            self.reply(
                200,
                entries
                + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders],
            )

    def on_create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            self.reply(409, {"error": "exists", "url": f"{self.hub.url}/datasets/{name}"})
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repository = self.hub.repositories[name] = Repository(private, asked.get("type") or "model")
        repository.commit("main", {".gitattributes": b"*.parquet filter=lfs\n"})
        self.reply(200, {"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": name})

    def on_delete(self) -> None:
        asked = json.loads(self.body)
        del self.hub.repositories[f"{asked.get('organization') or 'me'}/{asked['name']}"]
        self.reply(200, {})

    def on_preupload(self, revision: str) -> None:
        found = self.tree(revision)
        if not found:
            return
        files = []
        for file in json.loads(self.body)["files"]:
            there = found[1].get(file["path"])
            oid = (
                None
                if there is None
                else hashlib.sha256(there).hexdigest()
                if is_lfs(file["path"])
                else git_oid(there)
            )
            mode = "lfs" if is_lfs(file["path"]) else "regular"
            files.append(
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        self.reply(200, {"files": files})

    def on_lfs(self) -> None:
        objects = []
        for one in json.loads(self.body)["objects"]:
            known = one["oid"] in self.hub.lfs
            actions = (
                {}
                if known
                else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            )
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        self.reply(200, {"transfer": "basic", "objects": objects})

    def on_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.reply(400, {"error": "content and oid differ"})
            return
        self.hub.lfs[oid] = self.body
        self.reply(200, {})

    def on_commit(self, revision: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        head = self.repository.branches.get(revision)
        if head is None:
            self.reply(404, {"error": "no such branch"}, {"X-Error-Code": "RevisionNotFound"})
            return
        if parent is not None and parent != head:
            self.reply(412, {"error": "A commit has happened since."})
            return
        tree = dict(self.repository.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    self.reply(400, {"error": f"{value['path']} was never uploaded"})
                    return
                tree[value["path"]] = self.hub.lfs[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        oid = self.repository.commit(revision, tree)
        prefix = "/datasets" if self.repository.kind == "dataset" else ""
        self.reply(
            200,
            {
                "commitOid": oid,
                "commitUrl": f"{self.hub.url}{prefix}/{self.name}/commit/{oid}",
                "success": True,
            },
        )

    def on_branch(self, revision: str) -> None:
        if revision in self.repository.branches:
            self.reply(409, {"error": "exists"})
            return
        start = (json.loads(self.body) if self.body else {}).get("startingPoint", "main")
        self.repository.branches[revision] = self.repository.resolve(start)
        self.reply(200, {})

    def on_tag(self, revision: str) -> None:
        self.repository.tags[json.loads(self.body)["tag"]] = self.repository.resolve(revision)
        self.reply(200, {})

    def on_yaml(self) -> None:
        self.reply(200, {"errors": [], "warnings": []})

    def on_resolve(self, revision: str, path: str) -> None:
        found = self.tree(revision)
        if not found:
            return
        commit, files = found
        if path not in files:
            self.reply(
                404,
                {"error": "Entry not found"},
                {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit},
            )
            return
        content = files[path]
        etag = hashlib.sha256(content).hexdigest() if is_lfs(path) else git_oid(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            self.reply(200, content, headers)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
        self.reply(206, content[first : last + 1], headers)

    def _read_chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
