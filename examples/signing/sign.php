<?php
// php sign.php KEY_ID EXP URL: signs the URL with the secret in TARSTREAM_SIGN_SECRET.

/** The URL, signed; it counts until $exp, in Unix seconds. */
function sign(string $url, string $keyId, string $secret, int $exp): string
{
    $url .= (str_contains($url, '?') ? '&' : '?') . "exp=$exp&key=$keyId";
    $target = preg_replace('~^https?://[^/]*~', '', $url); // path and query, as they will be sent
    return "$url&sig=" . hash_hmac('sha256', $target, $secret);
}

[, $keyId, $exp, $url] = $argv;
echo sign($url, $keyId, getenv('TARSTREAM_SIGN_SECRET'), (int) $exp), "\n";
