#!/bin/sh
# sign.sh KEY_ID EXP URL: signs the URL with the secret in TARSTREAM_SIGN_SECRET, by openssl.
#
# Where nobody else is on the machine, this is all of it:
#   sig=$(printf %s "$target" | openssl dgst -sha256 -hmac "$TARSTREAM_SIGN_SECRET" -r | cut -c1-64)
# But ps would show the secret to everybody, so HMAC is written out here (RFC 2104).
set -eu

sha256() {
    openssl dgst -sha256 "$@"
}

# Fills the key up to 64 bytes with zeros; each byte, exclusive or $1.
padded() {
    pad=$1
    # shellcheck disable=SC2086 # a word for each byte
    set -- $key
    count=64
    while [ "$count" -gt 0 ]; do
        printf "\\$(printf %03o $((${1:-0} ^ pad)))"
        [ $# -eq 0 ] || shift
        count=$((count - 1))
    done
}

case $3 in *\?*) separator='&' ;; *) separator='?' ;; esac
url="$3${separator}exp=$2&key=$1"
target=$(printf %s "$url" | sed 's|^https\{0,1\}://[^/]*||') # path and query, as they will be sent
if [ ${#TARSTREAM_SIGN_SECRET} -gt 64 ]; then
    key=$(printf %s "$TARSTREAM_SIGN_SECRET" | sha256 -binary | od -An -v -t u1)
else
    key=$(printf %s "$TARSTREAM_SIGN_SECRET" | od -An -v -t u1)
fi
sig=$({ padded 92 && { padded 54 && printf %s "$target"; } | sha256 -binary; } | sha256 -r)
printf '%s\n' "$url&sig=${sig%% *}"
