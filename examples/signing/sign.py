"""sign.py KEY_ID EXP URL: signs the URL with the secret in TARSTREAM_SIGN_SECRET."""

import hashlib
import hmac
import os
import re
import sys


def sign(url: str, key_id: str, secret: str, exp: int) -> str:
    """The URL, signed; it counts until `exp`, in Unix seconds."""
    url += f"{'&' if '?' in url else '?'}exp={exp}&key={key_id}"
    target = re.sub("^https?://[^/]*", "", url)  # path and query, as they will be sent
    sig = hmac.new(secret.encode(), target.encode(), hashlib.sha256).hexdigest()
    return f"{url}&sig={sig}"


if __name__ == "__main__":
    key_id, exp, url = sys.argv[1:]
    print(sign(url, key_id, os.environ["TARSTREAM_SIGN_SECRET"], int(exp)))
