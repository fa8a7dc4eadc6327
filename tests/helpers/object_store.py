"""An S3 server on this machine: moto, with a record of what was asked of it."""

import contextlib
import threading
from dataclasses import dataclass, field

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@dataclass
class Store:
    """A bucket `corpus`, and the requests as (method, path, number of bytes sent back)."""

    endpoint: str
    requests: list = field(default_factory=list)

    @property
    def environment(self):
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}

    def client(self):
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def put(self, key, data):
        self.client().put_object(Bucket="corpus", Key=key, Body=data)

    def get(self, key):
        return self.client().get_object(Bucket="corpus", Key=key)["Body"].read()

    def keys(self, prefix=""):
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket="corpus", Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def bytes_read(self, key):
        return sum(sent for method, path, sent in self.requests if method == "GET" and path == f"/corpus/{key}")

    def reads(self, key):
        return sum(method == "GET" and path == f"/corpus/{key}" for method, path, _ in self.requests)


@contextlib.contextmanager
def object_store():
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = Store("")
    dispatch = DomainDispatcherApplication(create_backend_app)

    def application(environ, start_response):
        sent = list(dispatch(environ, start_response))
        store.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], sum(map(len, sent))))
        return sent

    server = make_server("127.0.0.1", 0, application, threaded=True)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store.client().create_bucket(Bucket="corpus")
        yield store
    finally:
        server.shutdown()
        thread.join()
