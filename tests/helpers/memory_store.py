"""A store in memory, of which every request may be the last of a process that is killed."""

import hashlib
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

from helpers.fakes import Killed
from simulsa_plugin.files import remote


@dataclass
class MemoryStore:
    """Objects by address; after `requests_left` requests each one raises `Killed`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    requests_left: float = math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stand_in(self, monkeypatch):
        """Answer for `files.remote`."""
        for name in ("list_below", "read", "write", "create", "upload", "remove", "blocks"):
            monkeypatch.setattr(remote, name, getattr(self, name))

    def _request(self):
        with self._lock:
            self.requests_left -= 1
            if self.requests_left < 0:
                raise Killed

    def list_below(self, url):
        self._request()
        below = {
            name.removeprefix(f"{url}/"): data for name, data in self.objects.items() if name.startswith(f"{url}/")
        }
        return {name: remote.Stored(len(data), hashlib.md5(data).hexdigest()) for name, data in below.items()}

    def read(self, url):
        self._request()
        return self.objects.get(url)

    def write(self, url, data):
        self._request()
        self.objects[url] = bytes(data)

    def create(self, url, data):
        self._request()
        return self.objects.setdefault(url, data) is data

    def upload(self, source, url):
        self.write(url, Path(source).read_bytes())

    def remove(self, url):
        self._request()
        self.objects.pop(url, None)

    def blocks(self, url):
        self._request()
        yield self.objects[url]
