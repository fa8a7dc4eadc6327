"""Objects in stores, read and written through fsspec: which addresses are taken, and what their errors mean.

Credentials, regions and endpoints come from where each store's own tools look for them (`AWS_PROFILE`,
`AWS_ENDPOINT_URL`, `~/.aws`); no message shows them, nor the query of an address, which may be a signature.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from simulsa_plugin.errors import MissingExtraError, StorageError, UsageError

# Scheme → (package, extra). Others of fsspec are left out: they read local files, start programs or unpack archives.
_PACKAGES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", ""),
    "gcs": ("gcsfs", ""),
    "az": ("adlfs", ""),
    "abfs": ("adlfs", ""),
    "http": ("aiohttp", ""),
    "https": ("aiohttp", ""),
}
SCHEMES = tuple(_PACKAGES)
WRITABLE = tuple(scheme for scheme in SCHEMES if not scheme.startswith("http"))
_ADDRESS = re.compile(r"(?P<scheme>[a-z0-9]+)://[^\x00-\x1f\x7f]+")
_SIGNED, _USER = re.compile(r"\?[^\s'\")]+"), re.compile(r"://[^/\s@]+@")
_CONNECT_SECONDS, _READ_SECONDS = 10, 60  # of http; s3fs has its own, and tries again
_BLOCK_BYTES = 8 << 20
_MAX_CAUSE = 300
# What stores of S3's kind answer where an object is there or is being created, and where they cannot tell.
_IS_THERE, _CANNOT_CREATE = ("PreconditionFailed", "ConditionalRequestConflict"), "NotImplemented"


def is_remote(name: str) -> bool:
    """Return whether this is the address of an object that can be read.

    >>> is_remote("s3://bucket/a.flac"), is_remote("file:///etc/passwd"), is_remote("tar://a::s3://b/c.tar")
    (True, False, False)
    """
    match = _ADDRESS.fullmatch(name)
    return match is not None and match["scheme"] in _PACKAGES and "::" not in name


def shown(text: str) -> str:
    """Return an address, or a message with some, without what may be secret.

    >>> shown("https://me:secret@example.org/a.wav?Signature=abc is missing")
    'https://…@example.org/a.wav?… is missing'
    """
    return _USER.sub("://…@", _SIGNED.sub("?…", text))


def check_address(key: str, url: str) -> None:
    """Raise UsageError unless `url`, the value of `key`, is an address that can be read."""
    if not is_remote(url):
        raise UsageError(f"{key} is {shown(url)!r}; allowed: an address of {', '.join(SCHEMES)}.")


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the object's path in it; one for all threads of a process.

    Raises:
        MissingExtraError: the package for this kind of store is not installed.
        StorageError: the file system cannot be made.
    """
    scheme = url.partition("://")[0]
    with _LOCK:
        if scheme not in _STORES:
            _STORES[scheme] = _new_filesystem(scheme, url)
        store = _STORES[scheme]
    return store, store._strip_protocol(url)


def forget() -> None:
    """Make new file systems from now on: the environment has changed, or this is another process."""
    global _LOCK
    _LOCK = threading.Lock()
    _STORES.clear()
    if "fsspec.asyn" in sys.modules:
        sys.modules["fsspec.asyn"].reset_lock()  # the thread of its loop is the parent's, and it would wait for ever


_LOCK = threading.Lock()
_STORES: dict[str, Any] = {}
os.register_at_fork(after_in_child=forget)


def _new_filesystem(scheme: str, url: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    package, extra = _PACKAGES[scheme]
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True, **_options(scheme))
    except ImportError as error:
        # Each version of s3fs and gcsfs needs the fsspec of its own day.
        fitting = f"=={fsspec.__version__}" if package == "gcsfs" else ""
        step = f"the extra, in the clone: pip install '.[{extra}]'" if extra else f"it: pip install {package}{fitting}"
        raise MissingExtraError(f"{scheme}:// needs the package {package}. Install {step}.") from error
    except Exception as error:  # stores have no common error
        raise _cannot("use", url, error) from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)}}


@contextlib.contextmanager
def using(url: str, what: str = "read") -> Iterator[None]:
    """Turn what a store says into errors of the system's kind.

    Raises:
        FileNotFoundError: there is no such object, while its bucket is there.
        StorageError: everything else: no access, no answer.
    """
    try:
        yield
    except (StorageError, MissingExtraError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise _cannot(what, url, error) from error
        raise FileNotFoundError(errno.ENOENT, "no such object") from error
    except Exception as error:  # those of stores (credentials, endpoint, time) have no common base
        if getattr(error, "status", None) in (404, 410):
            raise FileNotFoundError(errno.ENOENT, "no such object") from error
        raise _cannot(what, url, error) from error


def blocks(url: str) -> Iterator[bytes]:
    """Yield an object from its start to its end, a few MB at a time. Raises as `using`."""
    store, path = filesystem(url)
    streams = url.startswith("http")  # a server need not know ranges
    with using(url), store.open(path, "rb", block_size=0 if streams else _BLOCK_BYTES, **_uncached(url)) as handle:
        while block := handle.read(_BLOCK_BYTES):
            yield block


def read_range(url: str, start: int, stop: int) -> bytes:
    """Read the bytes [start, stop) of an object; fewer where it ends before.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store gives none, or more than was asked for.
    """
    store, path = filesystem(url)
    with using(url):
        data: bytes = store.cat_file(path, start=start, end=stop)
    if len(data) > stop - start:
        raise StorageError(f"Cannot read a part of {shown(url)}: its server gives the whole. Download it first.")
    return data


def open_object(url: str) -> IO[bytes]:
    """Open an object to read it here and there; every read is a request for just these bytes. Raises as `using`."""
    store, path = filesystem(url)
    with using(url):
        handle: IO[bytes] = store.open(path, "rb", cache_type="none")
    return handle


def size_of(url: str) -> int:
    """Return the number of bytes of an object. Raises as `using`."""
    store, path = filesystem(url)
    with using(url):
        size = store.info(path)["size"]
    if size is None:
        raise StorageError(f"Cannot read a part of {shown(url)}: its server does not say how long it is.")
    return int(size)


def list_folder(url: str) -> list[str]:
    """Return the addresses of the objects right below an address, sorted; none where there is nothing.

    Raises:
        StorageError: the store does not say.
    """
    store, path = filesystem(url)
    try:
        with using(url):
            store.invalidate_cache()
            found = store.ls(path, detail=True)
    except FileNotFoundError:
        return []
    names = (one["name"] for one in found if one["type"] == "file")
    return sorted(address_of(url, name) for name in names if name.rstrip("/") != path and not name.endswith("/"))


@dataclass(frozen=True)
class Stored:
    """An object as a store lists it.

    Attributes:
        size: in bytes.
        tag: what changes with the content; of S3 the MD5 of what was written at once.
    """

    size: int
    tag: str


def list_below(url: str) -> dict[str, Stored]:
    """Return all objects below an address by their names from there on.

    Raises:
        StorageError: the store does not say.
    """
    store, path = filesystem(url)
    with using(url):
        store.invalidate_cache()
        found = store.find(path, detail=True)
    below = {name[len(path) + 1 :]: one for name, one in found.items() if not name.endswith("/")}
    below.pop("", None)  # like names that end in a slash, what a console leaves where somebody made a folder
    return {name: Stored(int(one["size"]), str(one.get("ETag", "")).strip('"')) for name, one in below.items()}


def read(url: str) -> bytes | None:
    """Return a small object; None where there is none.

    Raises:
        StorageError: the store does not say.
    """
    store, path = filesystem(url)
    try:
        with using(url):
            data: bytes = store.cat_file(path)
    except FileNotFoundError:
        return None
    return data


def write(url: str, data: bytes) -> None:
    """Write a small object whole. Raises StorageError where the store refuses."""
    store, path = filesystem(url)
    with using(url, "write"):
        store.pipe_file(path, data)


def create(url: str, data: bytes) -> bool:
    """Write a small object unless there is one; return whether it was written.

    Where a store cannot do that in one step, two writers at the same moment both succeed.

    Raises:
        StorageError: the store refuses.
    """
    store, path = filesystem(url)
    try:
        with using(url, "write"):
            store.pipe_file(path, data, mode="create")
    except StorageError as error:
        cause = error.__cause__ or error
        if isinstance(cause, FileExistsError) or _code(cause) in _IS_THERE:
            return False
        if isinstance(cause, (NotImplementedError, TypeError)) or _code(cause) == _CANNOT_CREATE:
            if read(url) is not None:
                return False
            write(url, data)
            return True
        raise
    return True


def upload(source: str, url: str) -> None:
    """Write a local file as an object. Raises StorageError where the store refuses, or the file is gone."""
    store, path = filesystem(url)
    with using(url, "write"):
        store.put_file(source, path)


def remove(url: str) -> None:
    """Remove an object, if it is there. Raises StorageError where the store refuses."""
    store, path = filesystem(url)
    with contextlib.suppress(FileNotFoundError), using(url, "remove"):
        store.rm_file(path)


def address_of(url: str, path: str) -> str:
    """Return the address of a path that the file system of `url` names."""
    return path if "://" in path else f"{url.partition('://')[0]}://{path}"


def _uncached(url: str) -> dict[str, Any]:
    return {} if url.startswith("http") else {"cache_type": "none"}


def _code(error: BaseException) -> str:
    """Return the store's own word for an error, such as NoSuchBucket; empty where it has none."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _cannot(what: str, url: str, error: BaseException) -> StorageError:
    cause = shown(" ".join(str(error).split()) or type(error).__name__)[:_MAX_CAUSE].rstrip(".")
    if isinstance(error, (TypeError, AttributeError)):  # no store says that
        return StorageError(
            f"Cannot {what} {shown(url)}: {cause}. The installed packages for this store do not fit together (for S3: "
            "s3fs, aiobotocore, botocore); install the extra again."
        )
    return StorageError(
        f"Cannot {what} {shown(url)}: {cause}. Check address, endpoint and credentials (for S3: AWS_ENDPOINT_URL, "
        "AWS_PROFILE), and start again."
    )
