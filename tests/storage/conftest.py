import pytest
from helpers.object_store import object_store

from simulsa_plugin.files import remote


@pytest.fixture(scope="module")
def store_server():
    for package in ("moto", "s3fs"):
        pytest.importorskip(package, reason="installed by the extra test")
    with object_store() as store:
        yield store


@pytest.fixture
def store(store_server, monkeypatch):
    """An empty bucket `corpus`, found through the environment as a user's would be."""
    client = store_server.client()
    for key in store_server.keys():
        client.delete_object(Bucket="corpus", Key=key)
    store_server.requests.clear()
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    remote.forget()
    yield store_server
    remote.forget()
