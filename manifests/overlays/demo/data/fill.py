"""Makes a bucket and puts 500 files of 16 to 240 kB into it: fill.py ENDPOINT BUCKET PREFIX. Standard library only."""

import datetime
import hashlib
import hmac
import os
import random
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

FILES = int(os.environ.get("FILES", "500"))
USER, PASSWORD = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]


def put(endpoint, path, body=b""):
    """A PUT, signed as S3 asks for it (Signature Version 4)."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": urllib.parse.urlsplit(endpoint).netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    signed = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"PUT\n{path}\n\n{lines}\n{signed}\n{digest}"
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{PASSWORD}".encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={USER}/{scope}, SignedHeaders={signed}, Signature={key.hex()}"
    )
    request = urllib.request.Request(endpoint + path, body, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass


def make(endpoint, bucket):
    """Makes the bucket, as soon as there is somebody to ask."""
    for _ in range(120):
        try:
            return put(endpoint, f"/{bucket}")
        except urllib.error.HTTPError as error:
            if error.code == 409:  # it is there
                return
            if error.code < 500:
                raise
        except OSError:
            pass
        time.sleep(1)
    sys.exit(f"{endpoint} does not answer")


def main(endpoint, bucket, prefix):
    make(endpoint, bucket)
    total = 0
    for n in range(FILES):
        noise = random.Random(n)
        body = noise.randbytes(noise.randrange(16_000, 240_000))
        put(endpoint, f"/{bucket}/{prefix}/class-{n % 10}/{n:05}.jpg", body)
        total += len(body)
    print(f"{FILES} files, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
