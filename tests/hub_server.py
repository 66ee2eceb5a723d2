"""A Hugging Face Hub on 127.0.0.1, for tests: the HTTP calls that the genuine client makes, and faults on demand.

`HubServer` keeps repositories in memory: commits, branches, tags, large files by their sha256. `hub_clients` runs the
client against it.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_right"
USER = "tester"


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    title: str = "initial commit"


@dataclass
class Repository:
    """Attributes: who may see it, its commits by oid, and the oids of branches and tags by name."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, files: dict[str, bytes], title: str, branch: str = "main") -> Commit:
        """A commit that holds these files and no others."""
        parent = self.branches.get(branch, "")
        said = json.dumps([parent, title, sorted((k, hashlib.sha256(v).hexdigest()) for k, v in files.items())])
        commit = Commit(hashlib.sha1(said.encode()).hexdigest(), files, title)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match.

    Attributes:
        request: regular expression for "METHOD path". times: how often.
        status: answer with this instead. wait: seconds before the answer. cut: close the connection half-way
            through the body, which is either received or sent. replace: what a file is turned into.
    """

    request: str
    times: int = 1_000_000
    status: int = 0
    wait: float = 0
    cut: bool = False
    replace: Callable[[bytes], bytes] | None = None
    met: threading.Event = field(default_factory=threading.Event)


class HubServer:
    """Attributes: url; repositories by id; large files by sha256; faults; log: (method, path) of every request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def fault(self, request: str, **options: Any) -> Fault:
        self.faults.append(Fault(request, **options))
        return self.faults[-1]

    def put(self, repository: str, folder: Path, **options: Any) -> str:
        """A repository with the files of a folder; gives the commit."""
        made = Repository(**options)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.repositories[repository] = made
        return made.add(files, "put").oid

    def calls(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.log)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".bin"))


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    # --- Answers --------------------------------------------------------------------------------------------------

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.fault.met.set()
            self.close_connection = True
        else:
            self.wfile.write(data)

    def refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        if code:
            headers["X_Error_Code"] = code
        self.answer(status, {"error": message}, X_Error_Message=message, **headers)

    def body(self) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        if self.fault and self.fault.cut and self.command == "PUT":
            self.rfile.read(length // 2)
            self.fault.met.set()
            time.sleep(self.fault.wait)
            self.connection.close()
            raise ConnectionError
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(length)

    # --- Requests -------------------------------------------------------------------------------------------------

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.log.append((self.command, path))
            said = f"{self.command} {path}"
            self.fault = next((f for f in self.hub.faults if f.times > 0 and re.search(f.request, said)), None)
            if self.fault:
                self.fault.times -= 1
        try:
            if self.fault and not self.fault.cut:
                self.fault.met.set()
                time.sleep(self.fault.wait)
            data = self.body()
            if self.fault and self.fault.status:
                self.refuse(self.fault.status, message="as the test wants it")
                return
            for method, pattern, run in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    with self.hub.lock:
                        run(self, data, *found.groups())
                    return
            self.refuse(404, message=f"no such call: {said}")
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def user(self) -> str | None:
        """The user of the token; None without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return USER if token == TOKEN else None

    def bad_token(self) -> bool:
        """Whether a token came that is nobody's, which was answered."""
        bad = "Authorization" in self.headers and not self.user()
        if bad:
            self.refuse(401, message="Invalid credentials in Authorization header")
        return bad

    def open(self, name: str, write: bool = False) -> Repository | None:
        """A repository that this user may see; None, answered, if there is none."""
        if self.bad_token():
            return None
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.user()):
            self.refuse(404 if self.user() else 401, "RepoNotFound", "Repository not found")
            return None
        if write and not self.user():
            self.refuse(401, message="You must be logged in")
            return None
        return found

    def open_at(self, name: str, revision: str) -> tuple[Repository, Commit] | None:
        found = self.open(name)
        commit = found.at(revision) if found else None
        if found and not commit:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return (found, commit) if found and commit else None

    def whoami(self, data: bytes) -> None:
        if not self.bad_token():
            if self.user():
                self.answer(200, {"type": "user", "name": USER, "orgs": [{"name": "org"}], "auth": {}})
            else:
                self.refuse(401, message="Invalid username or password.")

    def create(self, data: bytes) -> None:
        wanted = json.loads(data)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if self.bad_token():
            return
        if not self.user():
            self.refuse(401, message="Invalid username or password.")
        elif name.split("/")[0] not in (USER, "org"):
            self.refuse(403, message=f'You don\'t have the rights to create a model under the namespace "{name}"')
        elif name in self.hub.repositories:
            self.refuse(409, message="You already created this model repo")
        else:
            private = wanted.get("private") is True or wanted.get("visibility") == "private"
            made = self.hub.repositories[name] = Repository(private=private)
            made.add({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "initial commit")
            self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def validate_yaml(self, data: bytes) -> None:
        content = json.loads(data)["content"]
        problem = ""
        try:
            header = yaml.safe_load(content.split("---")[1])
            known = re.fullmatch(r"(apache|mit|cc|bsd|gpl|other|cc0)[\w.-]*", header.get("license", ""))
            problem = "" if known else '"license" must be one of a list'
            problem = problem or ("" if isinstance(header["tags"], list) else '"tags" must be an array')
        except (yaml.YAMLError, AttributeError, IndexError, KeyError) as e:
            problem = str(e)
        errors = [{"message": problem}] if problem else []
        self.answer(400 if problem else 200, {"errors": errors, "warnings": []})

    def preupload(self, data: bytes, name: str, revision: str) -> None:
        found = self.open(name, write=True)
        if found is None:
            return
        there = found.at(revision)
        if there is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        answers = []
        for file in json.loads(data)["files"]:
            path = file["path"]
            known = there.files.get(path)
            large = is_large(path)
            answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if known is not None:
                answer["oid"] = hashlib.sha256(known).hexdigest() if large else git_oid(known)
            answers.append(answer)
        self.answer(200, {"files": answers})

    def lfs_batch(self, data: bytes, name: str) -> None:
        if self.open(name, write=True) is None:
            return
        objects = []
        for wanted in json.loads(data)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, data: bytes, oid: str) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            self.refuse(400, message="the digest does not fit")
            return
        self.hub.large[oid] = data
        self.answer(200)

    def commit(self, data: bytes, name: str, branch: str) -> None:
        found = self.open(name, write=True)
        if found is None:
            return
        header, *operations = [json.loads(line) for line in data.splitlines()]
        head = found.branches.get(branch)
        if head is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            return
        if header["value"].get("parentCommit") not in (None, head):
            self.refuse(412, message="A commit has happened since. Please refresh and try again.")
            return
        files = dict(found.commits[head].files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    self.refuse(400, message=f"{value['path']} was not uploaded")
                    return
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        made = found.add(files, header["value"]["summary"], branch)
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{made.oid}", "commitOid": made.oid})

    def tag(self, data: bytes, name: str, revision: str) -> None:
        found = self.open(name, write=True)
        if found is None:
            return
        tag, commit = json.loads(data)["tag"], found.at(revision)
        if tag in found.tags:
            self.refuse(409, message="Tag already exists")
        elif commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            found.tags[tag] = commit.oid
            self.answer(200)

    def branch(self, data: bytes, name: str, branch: str) -> None:
        found = self.open(name, write=True)
        if found is None:
            return
        if branch in found.branches:
            self.refuse(409, message="Reference already exists")
        else:
            found.branches[branch] = found.branches[json.loads(data or b"{}").get("startingPoint", "main")]
            self.answer(200)

    def refs(self, data: bytes, name: str) -> None:
        found = self.open(name)
        if found is not None:
            kinds = {"branches": ("heads", found.branches), "tags": ("tags", found.tags)}
            self.answer(200, {"converts": []} | {
                kind: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": oid} for n, oid in names.items()]
                for kind, (ref, names) in kinds.items()
            })  # fmt: skip

    def info(self, data: bytes, name: str, revision: str = "main") -> None:
        found = self.open_at(name, revision)
        if found is not None:
            siblings = [{"rfilename": path} for path in found[1].files]
            about = {"private": found[0].private, "gated": "manual" if found[0].gated else False, "tags": []}
            self.answer(
                200, {"_id": "0", "id": name, "modelId": name, "sha": found[1].oid, "siblings": siblings} | about
            )

    def tree(self, data: bytes, name: str, revision: str) -> None:
        found = self.open_at(name, revision)
        if found is None:
            return
        entries = []
        for path, content in found[1].files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if is_large(path):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)

    def resolve(self, data: bytes, name: str, revision: str, path: str) -> None:
        found = self.open_at(name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated:
            self.refuse(403 if self.user() else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif path not in commit.files:
            self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit.oid)
        else:
            content = commit.files[path]
            if not is_large(path):
                self.file(content, X_Repo_Commit=commit.oid, ETag=f'"{git_oid(content)}"')
                return
            digest = hashlib.sha256(content).hexdigest()
            self.hub.large[digest] = content
            linked = {"X_Linked_Etag": f'"{digest}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit.oid}
            # another host, as the Hub's own storage is: the client follows no redirect to its own host by itself
            self.answer(
                302, b"", Location=f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{digest}", **linked
            )

    def stored(self, data: bytes, oid: str) -> None:
        self.file(self.hub.large[oid], ETag=f'"{oid}"')

    def file(self, content: bytes, **headers: str) -> None:
        """A file's content, or what a fault makes of it; from where the client asks."""
        if self.fault and self.fault.replace:
            content = self.fault.replace(content)
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and int(start[1]):
            whole, content = len(content), content[int(start[1]) :]
            self.answer(206, content, Content_Range=f"bytes {start[1]}-{whole - 1}/{whole}", **headers)
        else:
            self.answer(200, content, **headers)


NAME, REV = r"([\w.-]+/[\w.-]+)", r"([\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{NAME}/preupload/{REV}", _Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/storage/(.+)", _Handler.store),
    ("POST", f"/api/models/{NAME}/commit/{REV}", _Handler.commit),
    ("POST", f"/api/models/{NAME}/tag/{REV}", _Handler.tag),
    ("POST", f"/api/models/{NAME}/branch/{REV}", _Handler.branch),
    ("GET", f"/api/models/{NAME}/refs", _Handler.refs),
    ("GET", f"/api/models/{NAME}/tree/{REV}", _Handler.tree),
    ("GET", f"/api/models/{NAME}/revision/{REV}", _Handler.info),
    ("GET", f"/api/models/{NAME}", _Handler.info),
    ("GET HEAD", f"/{NAME}/resolve/{REV}/(.+)", _Handler.resolve),
    ("GET HEAD", "/storage/(.+)", _Handler.stored),
]
