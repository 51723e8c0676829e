"""The S3 servers of the tests, with users that have only the permissions of docs/iam-policy.json.

The servers differ from AWS as follows; tests/integration/test_s3_servers.py asserts each point:

- Both enforce signatures and the mandatory statements of the policy: actions by key prefix, so no list, nothing outside
  the prefix, and deletes only in `_open/`.
- Without `s3:ListBucket`, AWS answers 403 for a missing key; both servers answer 404. `Bucket.client_as_on_aws` turns
  this into 403.
- Of the optional statements, SeaweedFS honours the one for lists with its condition on the prefix, and refuses a policy
  with s3:ListBucketMultipartUploads. moto knows both actions and ignores the conditions. The users in the tests have
  neither permission.
- SeaweedFS refuses a wrong checksum; moto accepts any.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from prefect_loova.simulator.s3 import REGION, EmbeddedS3, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

PREFIX = "loova"
POLICY = Path(__file__).parents[2] / "docs" / "iam-policy.json"


@dataclass(frozen=True)
class S3Server:
    """An S3 server on loopback, with the keys of its administrator."""

    name: str
    """`seaweedfs` or `moto`."""
    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = REGION

    @cached_property
    def admin(self) -> S3Client:
        """A client of the administrator, for all tests: to make one takes as long as a short test."""
        return self.client()

    def client(self, config: Config | None = None, **settings: Any) -> S3Client:
        """Return a new client of the administrator, with a botocore `Config` or its arguments."""
        return self.client_of(self.access_key, self.secret_key, config, **settings)

    @cached_property
    def iam(self) -> Any:
        """A client of AWS's IAM API, which both servers support."""
        return _iam(self.endpoint_url, self.access_key, self.secret_key)

    def client_of(self, access_key: str, secret_key: str, config: Config | None = None, **settings: Any) -> S3Client:
        """Return a client of a user."""
        config = Config(**settings).merge(config) if config else Config(**settings)
        return s3_client(self.endpoint_url, access_key, secret_key, config)

    def make_bucket(self) -> Bucket:
        """Create a bucket with a new name."""
        bucket = Bucket(f"loova-test-{secrets.token_hex(6)}")
        bucket.server = self
        self.admin.create_bucket(Bucket=bucket)
        return bucket

    def add_user(self, policy: dict[str, Any]) -> tuple[str, str]:
        """Create a user with a policy, and return the access key and the secret."""
        return _add_user(self.iam, f"user-{secrets.token_hex(6)}", policy)


class Bucket(str):
    """The name of a bucket, with its server and a user that has only the permissions of docs/iam-policy.json."""

    server: S3Server

    @property
    def name(self) -> str:
        return str(self)

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    @property
    def client(self) -> S3Client:
        """A client of the administrator, to check what the product did."""
        return self.server.admin

    @cached_property
    def limited_keys(self) -> tuple[str, str]:
        """The access key and secret of a user with the mandatory statements of the policy, for the prefix `loova/`."""
        return self.server.add_user(minimal_policy(self, PREFIX))

    @property
    def limited_access_key(self) -> str:
        return self.limited_keys[0]

    @property
    def limited_secret_key(self) -> str:
        return self.limited_keys[1]

    @cached_property
    def limited_client(self) -> S3Client:
        """A client with the minimal policy, for the product."""
        return self.make_limited_client()

    def make_limited_client(self, config: Config | None = None, **settings: Any) -> S3Client:
        """Return another client with the minimal policy, with a botocore `Config` or its arguments."""
        return self.server.client_of(*self.limited_keys, config, **settings)

    @cached_property
    def client_as_on_aws(self) -> S3Client:
        """A client with the minimal policy that gets 403 for a missing key, as on AWS without s3:ListBucket."""
        client = self.make_limited_client()
        for operation in ("GetObject", "HeadObject"):
            client.meta.events.register(f"after-call.s3.{operation}", _turn_404_into_403)
        return client

    def remove(self) -> None:
        """Delete the bucket and its content. SeaweedFS can hold about 70 buckets."""
        self._empty()
        for patience in (1, 5, None):
            try:
                self.client.delete_bucket(Bucket=self)
                return
            except ClientError as error:
                if error.response["Error"]["Code"] != "BucketNotEmpty":
                    raise
                if patience is None:
                    left = self.client.list_objects_v2(Bucket=self, MaxKeys=10).get("Contents", [])
                    raise AssertionError(f"the bucket cannot be emptied of {[one['Key'] for one in left]}") from error
                time.sleep(patience)  # a request of a client that was killed came by after all
                self._empty()

    def _empty(self) -> None:
        for uploads in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self):
            for upload in uploads.get("Uploads", []):
                self.client.abort_multipart_upload(Bucket=self, Key=upload["Key"], UploadId=upload["UploadId"])
        # All pages before the first deletion: moto skips objects if its list changes between two pages.
        for page in [*self.client.get_paginator("list_object_versions").paginate(Bucket=self)]:
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if found:
                keys: list[ObjectIdentifierTypeDef] = [
                    {"Key": one["Key"], "VersionId": one["VersionId"]} for one in found
                ]
                answer = self.client.delete_objects(Bucket=self, Delete={"Objects": keys, "Quiet": True})
                assert not answer.get("Errors"), answer


def minimal_policy(bucket: str, prefix: str, *, optional: Collection[str] = ()) -> dict[str, Any]:
    """Return docs/iam-policy.json for a bucket and prefix, with only these optional statements, by their Sid."""
    policy = json.loads(POLICY.read_text().replace("BUCKET", bucket).replace("PREFIX", prefix))
    policy["Statement"] = [s for s in policy["Statement"] if s["Sid"] in optional or "Optional" not in s["Sid"]]
    return policy


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS with its data in a folder."""
    with EmbeddedS3(folder, server="seaweedfs") as s3:
        yield S3Server("seaweedfs", s3.endpoint_url, s3.access_key, s3.secret_key)


@contextmanager
def moto() -> Iterator[S3Server]:
    """Run moto's server in this process, with checks of signatures and policies."""
    server = make_server("127.0.0.1", 0, _one_at_a_time(DomainDispatcherApplication(create_backend_app)), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    _check_moto_requests(url, after="inf")  # an earlier server of this process may have turned the checks on
    try:
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        admin = _add_user(_iam(url, "any", "any"), "admin", {"Version": "2012-10-17", "Statement": [everything]})
        _check_moto_requests(url, after="0")
        yield S3Server("moto", url, *admin)
    finally:
        server.shutdown()
        server.server_close()


def _one_at_a_time(app: Any) -> Any:
    """Serialise moto's requests: it checks the condition of a PutObject before it writes, so two threads might win.

    The body of a request is read before, so a slow client does not block the others.
    """
    lock = threading.Lock()

    def serial(environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        if length:
            environ["wsgi.input"] = BytesIO(body)
        with lock:
            return app(environ, start_response)

    return serial


def _check_moto_requests(url: str, *, after: str) -> None:
    arguments = (f"{url}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"})
    request = urllib.request.Request(*arguments, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert answer.status == 200


def _iam(url: str, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "iam",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(proxies={}),
    )


def _add_user(iam: Any, name: str, policy: dict[str, Any]) -> tuple[str, str]:
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="given", PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


def _turn_404_into_403(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    if http_response.status_code == 404:
        http_response.status_code = parsed["ResponseMetadata"]["HTTPStatusCode"] = 403
        parsed["Error"] = {"Code": "AccessDenied", "Message": "Access Denied"}
